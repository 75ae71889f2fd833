// From the layout's tensor tables to weights in place. Every extent is checked against its file
// here too, although TypeScript has checked the headers: this is the last place before pointers.
// Scales are widened to F32 and must be finite; vectors are widened to F32.
#include "tables.h"

#include <cmath>
#include <cstring>

namespace ring {
namespace {

constexpr double kMostRows = 1 << 24;

int element_bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::f8_e4m3:
      return 1;
    case Dtype::bf16:
      return 2;
    case Dtype::f32:
      return 4;
    case Dtype::none:
      return 0;
  }
  return 0;
}

bool is_whole(double value, double most) {
  return value >= 0 && value <= most && value == std::floor(value);
}

// A row of a tensor table, read and checked on its own.
struct Row {
  const double* field;
  int64_t number;  // for messages: row over both tables

  bool absent() const { return field[tensor_field::file] < 0; }
  Status bad(const char* what) const {
    Status status = failure(Code::bad_tensor, "%s", what);
    status.tensor = number;
    return status;
  }
};

// Bytes [offset, offset + bytes) of a file; false when they are not all inside it.
bool extent_of(const Layout& layout, double file, double offset, double bytes, Extent* out) {
  if (!is_whole(file, static_cast<double>(layout.files.size()) - 1) || !is_whole(offset, 0x1p53))
    return false;
  if (offset + bytes > static_cast<double>(layout.files[static_cast<size_t>(file)].bytes))
    return false;
  *out = {static_cast<int32_t>(file), static_cast<uint64_t>(offset), static_cast<uint64_t>(bytes),
          nullptr};
  return true;
}

float widen(const uint8_t* data, Dtype dtype, size_t index) {
  float value;
  if (dtype == Dtype::f32) {
    memcpy(&value, data + 4 * index, 4);
  } else {
    uint16_t half;
    memcpy(&half, data + 2 * index, 2);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    memcpy(&value, &bits, 4);
  }
  return value;
}

class Builder {
 public:
  Builder(const Layout& layout, const FindBytes& find, Model& model)
      : layout_(layout), find_(find), model_(model) {}

  Status build() {
    RING_TRY(check_tables());
    RING_TRY(reserve_scales());
    Row outer = dense_row(0);
    RING_TRY(matrix(outer, &model_.embedding));
    outer = dense_row(outer_tensor::final_norm);
    RING_TRY(vector(outer, &model_.final_norm));
    outer = dense_row(outer_tensor::head);
    RING_TRY(matrix(outer, &model_.head));
    model_.layers.resize(model_.shape.layers);
    for (int32_t index = 0; index < model_.shape.layers; ++index) RING_TRY(layer(index));
    model_.experts.resize(static_cast<size_t>(std::max(0, model_.shape.moe_layers())) *
                          model_.shape.experts);
    for (size_t expert = 0; expert < model_.experts.size(); ++expert)
      RING_TRY(this->expert(expert));
    // Only listed: vectors are still empty.
    return model_.final_norm.empty() ? Status{} : check_dimensions();
  }

 private:
  Row dense_row(int64_t row) const { return {layout_.tensors + row * tensor_field::count, row}; }
  Row expert_row(int64_t row) const {
    return {layout_.expert_tensors + row * tensor_field::count,
            static_cast<int64_t>(layout_.tensor_values / tensor_field::count) + row};
  }

  Status check_tables() const {
    const Shape& s = model_.shape;
    const size_t dense = outer_tensor::count + static_cast<size_t>(s.layers) * layer_tensor::count;
    const size_t experts =
        static_cast<size_t>(std::max(0, s.moe_layers())) * s.experts * expert_tensor::count;
    if (layout_.tensor_values != dense * tensor_field::count ||
        layout_.expert_tensor_values != experts * tensor_field::count) {
      return failure(Code::bad_argument,
                     "the tensor tables do not have the size that the shape asks for");
    }
    return {};
  }

  static size_t scale_count(const Row& row) {
    const double* f = row.field;
    if (row.absent() || !is_whole(f[tensor_field::scale_kind], 2)) return 0;
    const auto kind = static_cast<ScaleKind>(static_cast<int>(f[tensor_field::scale_kind]));
    if (kind == ScaleKind::none) return 0;
    const double rows = f[tensor_field::rows], columns = f[tensor_field::columns];
    if (!is_whole(rows, kMostRows) || !is_whole(columns, kMostRows)) return 0;
    if (kind == ScaleKind::row) return static_cast<size_t>(rows);
    const double block_rows = f[tensor_field::block_rows],
                 block_columns = f[tensor_field::block_columns];
    if (block_rows < 1 || block_columns < 1) return 0;
    return static_cast<size_t>(std::ceil(rows / block_rows) * std::ceil(columns / block_columns));
  }

  // Scales of all tensors lie in one array; it must not move while matrices point into it.
  Status reserve_scales() {
    size_t count = 0;
    const size_t dense = layout_.tensor_values / tensor_field::count;
    const size_t experts = layout_.expert_tensor_values / tensor_field::count;
    for (size_t row = 0; row < dense; ++row)
      count += scale_count(dense_row(static_cast<int64_t>(row)));
    for (size_t row = 0; row < experts; ++row)
      count += scale_count(expert_row(static_cast<int64_t>(row)));
    try {
      model_.scales.reserve(count);
    } catch (const std::bad_alloc&) {
      return failure(Code::out_of_memory, "no memory for %zu scales", count);
    }
    return {};
  }

  Status matrix(const Row& row, Matrix* out, BytesOf kind = BytesOf::weight) {
    if (row.absent()) return {};
    const double* f = row.field;
    const double rows = f[tensor_field::rows], columns = f[tensor_field::columns];
    if (!is_whole(rows, kMostRows) || !is_whole(columns, kMostRows) || rows < 1 || columns < 1) {
      return row.bad("has no usable shape");
    }
    if (!is_whole(f[tensor_field::dtype], 3) || !is_whole(f[tensor_field::scale_kind], 2) ||
        !is_whole(f[tensor_field::scale_dtype], 3)) {
      return row.bad("has an unknown element or scale type");
    }
    out->rows = static_cast<int32_t>(rows);
    out->columns = static_cast<int32_t>(columns);
    out->dtype = static_cast<Dtype>(static_cast<int>(f[tensor_field::dtype]));
    const int width = element_bytes(out->dtype);
    if (width == 0) return row.bad("has an unknown element type");
    Extent where;
    if (!extent_of(layout_, f[tensor_field::file], f[tensor_field::offset], rows * columns * width,
                   &where)) {
      return row.bad("does not lie inside its file");
    }
    RING_TRY(checksums(row, &where));
    out->data = find_(kind, where);
    return scale(row, out);
  }

  // Of an extent that has them: one for each kChecksumBytes.
  Status checksums(const Row& row, Extent* where) const {
    const double first = row.field[tensor_field::checksums];
    if (first < 0) return {};
    const uint64_t blocks = (where->bytes + io::kChecksumBytes - 1) / io::kChecksumBytes;
    if (!is_whole(first, static_cast<double>(layout_.checksum_count)) ||
        static_cast<uint64_t>(first) + blocks > layout_.checksum_count) {
      return row.bad("has checksums that do not lie inside their list");
    }
    where->checksums = layout_.checksums + static_cast<uint64_t>(first);
    return {};
  }

  Status scale(const Row& row, Matrix* out) {
    const double* f = row.field;
    const auto kind = static_cast<ScaleKind>(static_cast<int>(f[tensor_field::scale_kind]));
    if (kind == ScaleKind::none) {
      return out->dtype == Dtype::f8_e4m3 ? row.bad("is FP8 and has no scale") : Status{};
    }
    if (kind == ScaleKind::block) {
      const double block_rows = f[tensor_field::block_rows],
                   block_columns = f[tensor_field::block_columns];
      if (!is_whole(block_rows, kMostRows) || !is_whole(block_columns, kMostRows) ||
          block_rows < 1 || block_columns < 1) {
        return row.bad("has scale blocks of no usable size");
      }
      out->block_rows = static_cast<int32_t>(block_rows);
      out->block_columns = static_cast<int32_t>(block_columns);
      out->scale_columns = (out->columns + out->block_columns - 1) / out->block_columns;
    } else {
      out->block_rows = 1;
      out->block_columns = 0;
      out->scale_columns = 1;
    }
    const auto dtype = static_cast<Dtype>(static_cast<int>(f[tensor_field::scale_dtype]));
    if (dtype != Dtype::bf16 && dtype != Dtype::f32)
      return row.bad("has scales of an unknown type");
    const size_t count = scale_count(row);
    Extent where;
    if (!extent_of(layout_, f[tensor_field::scale_file], f[tensor_field::scale_offset],
                   static_cast<double>(count) * element_bytes(dtype), &where)) {
      return row.bad("has scales that do not lie inside their file");
    }
    const uint8_t* data = find_(BytesOf::scale, where);
    if (data == nullptr) return {};
    out->scales = model_.scales.data() + model_.scales.size();
    for (size_t i = 0; i < count; ++i) {
      const float value = widen(data, dtype, i);
      if (!std::isfinite(value)) return row.bad("has a scale that is not a finite number");
      model_.scales.push_back(value);
    }
    return {};
  }

  Status vector(const Row& row, Vector* out) {
    if (row.absent()) return {};
    Matrix stored;
    RING_TRY(matrix(row, &stored));
    if (stored.dtype == Dtype::f8_e4m3) return row.bad("is FP8, expected BF16 or F32");
    if (stored.data == nullptr) return {};
    const size_t count = static_cast<size_t>(stored.rows) * stored.columns;
    out->resize(count);
    for (size_t i = 0; i < count; ++i) {
      (*out)[i] = widen(stored.data, stored.dtype, i);
      if (!std::isfinite((*out)[i])) return row.bad("holds a value that is not a finite number");
    }
    return {};
  }

  Status layer(int32_t index) {
    LayerWeights& w = model_.layers[index];
    const int64_t first = outer_tensor::count + static_cast<int64_t>(index) * layer_tensor::count;
    const auto row = [&](int64_t field) { return dense_row(first + field); };
    RING_TRY(vector(row(layer_tensor::input_norm), &w.input_norm));
    RING_TRY(matrix(row(layer_tensor::qkv), &w.qkv));
    RING_TRY(vector(row(layer_tensor::qkv_bias), &w.qkv_bias));
    RING_TRY(vector(row(layer_tensor::query_norm), &w.query_norm));
    RING_TRY(vector(row(layer_tensor::key_norm), &w.key_norm));
    RING_TRY(matrix(row(layer_tensor::attention_out), &w.attention_out));
    RING_TRY(vector(row(layer_tensor::attention_out_bias), &w.attention_out_bias));
    RING_TRY(vector(row(layer_tensor::post_norm), &w.post_norm));
    RING_TRY(matrix(row(layer_tensor::gate), &w.mlp.gate));
    RING_TRY(matrix(row(layer_tensor::up), &w.mlp.up));
    RING_TRY(matrix(row(layer_tensor::down), &w.mlp.down));
    RING_TRY(matrix(row(layer_tensor::router), &w.router));
    return vector(row(layer_tensor::router_bias), &w.router_bias);
  }

  Status expert(size_t index) {
    Mlp& w = model_.experts[index];
    const int64_t first = static_cast<int64_t>(index) * expert_tensor::count;
    RING_TRY(matrix(expert_row(first + expert_tensor::gate), &w.gate, BytesOf::expert));
    RING_TRY(matrix(expert_row(first + expert_tensor::up), &w.up, BytesOf::expert));
    return matrix(expert_row(first + expert_tensor::down), &w.down, BytesOf::expert);
  }

  // Kernels trust these shapes, so they are checked once more where the pointers are made.
  Status check_dimensions() const {
    const Shape& s = model_.shape;
    const auto is = [](const Matrix& m, int64_t rows, int64_t columns) {
      return m.present() && m.rows == rows && m.columns == columns;
    };
    const auto fits = [](const Vector& v, int64_t count, bool needed) {
      return v.empty() ? !needed : static_cast<int64_t>(v.size()) == count;
    };
    const auto mlp = [&](const Mlp& m, int64_t width) {
      return is(m.gate, width, s.hidden) && is(m.up, width, s.hidden) &&
             is(m.down, s.hidden, width);
    };
    bool good = is(model_.embedding, s.vocabulary, s.hidden) &&
                is(model_.head, s.vocabulary, s.hidden) && fits(model_.final_norm, s.hidden, true);
    for (int32_t index = 0; index < s.layers; ++index) {
      const LayerWeights& w = model_.layers[index];
      const bool moe = s.is_moe(index);
      good = good && fits(w.input_norm, s.hidden, true) && fits(w.post_norm, s.hidden, true) &&
             is(w.qkv, s.qkv_rows(), s.hidden) && fits(w.qkv_bias, s.qkv_rows(), false) &&
             fits(w.query_norm, s.head_dim, false) && fits(w.key_norm, s.head_dim, false) &&
             is(w.attention_out, s.hidden, s.heads * s.head_dim) &&
             fits(w.attention_out_bias, s.hidden, false) &&
             (w.mlp.gate.present() || moe ? (!w.mlp.gate.present() || mlp(w.mlp, w.mlp.gate.rows))
                                          : false) &&
             (!moe || (is(w.router, s.experts, s.hidden) && fits(w.router_bias, s.experts, false)));
    }
    for (const Mlp& expert : model_.experts)
      good = good && mlp(expert, model_.experts.front().gate.rows);
    if (!good)
      return failure(Code::bad_argument,
                     "the tensor tables do not agree with the shape of the model");
    return {};
  }

  const Layout& layout_;
  const FindBytes& find_;
  Model& model_;
};

}  // namespace

Status build_model(const Layout& layout, const FindBytes& find, Model& model) {
  model.shape = layout.shape;
  model.rope_inverse = layout.rope_inverse;
  return Builder(layout, find, model).build();
}

}  // namespace ring
