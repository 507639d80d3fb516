#include "bench_onednn.h"

#ifdef CREDENCE_ONEDNN
#include <omp.h>

#include <dnnl.hpp>
#include <vector>
#endif

namespace credence::yardstick {

#ifdef CREDENCE_ONEDNN

namespace {

using dnnl::memory;

class Product final : public OneDnnProduct {
 public:
  Product(int rows, int outputs, int columns, bool bf16)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_), input_type_(type(bf16)) {
    const memory::desc x({rows, columns}, input_type_, memory::format_tag::ab);
    const memory::desc any({columns, outputs}, input_type_, memory::format_tag::any);
    const memory::desc y({rows, outputs}, memory::data_type::f32, memory::format_tag::ab);
    const dnnl::matmul::primitive_desc chosen(dnnl::matmul::desc(x, any, y), engine_);
    implementation = chosen.impl_info_str();
    product_ = dnnl::matmul(chosen);
    // W is stored output by output, as a checkpoint has it.
    const memory::desc stored({columns, outputs}, input_type_, memory::format_tag::ba);
    memory weights(chosen.weights_desc(), engine_), plain = filled(stored);
    dnnl::reorder(plain, weights).execute(stream_, plain, weights);
    arguments_ = {{DNNL_ARG_SRC, filled(x)}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, memory(y, engine_)}};
    stream_.wait();
  }

  void run() override {
    product_.execute(stream_, arguments_);
    stream_.wait();
  }

  std::string implementation;

 private:
  static memory::data_type type(bool bf16) { return bf16 ? memory::data_type::bf16 : memory::data_type::f32; }

  memory filled(const memory::desc& shape) {
    const auto dims = shape.dims();
    std::vector<float> values(static_cast<size_t>(dims[0] * dims[1]));
    uint32_t state = 1;
    for (float& value : values) {
      state = state * 1664525u + 1013904223u;
      value = static_cast<float>(state >> 8) * 0x1p-23f - 1;
    }
    const memory::desc floats(dims, memory::data_type::f32, memory::format_tag::ab);
    memory from(floats, engine_, values.data()), to(shape, engine_);
    dnnl::reorder(from, to).execute(stream_, from, to);
    stream_.wait();
    return to;
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  memory::data_type input_type_;
  dnnl::matmul product_;
  std::unordered_map<int, memory> arguments_;
};

}  // namespace

std::unique_ptr<OneDnnProduct> OneDnnProduct::open(int rows, int outputs, int columns, bool bf16, std::string* why) {
  try {
    auto product = std::make_unique<Product>(rows, outputs, columns, bf16);
    if (product->implementation.find("ref") == std::string::npos) return product;
    *why = "oneDNN has only its reference loops for this type on this machine";
  } catch (const dnnl::error& error) {
    *why = std::string("oneDNN: ") + error.what();
  }
  return nullptr;
}

std::string onednn_version() {
  const dnnl_version_t* v = dnnl_version();
  return std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
}

void onednn_threads(int threads) { omp_set_num_threads(threads); }

#else

std::unique_ptr<OneDnnProduct> OneDnnProduct::open(int, int, int, bool, std::string* why) {
  *why = "oneDNN was not there when this was configured (Debian: libdnnl-dev)";
  return nullptr;
}

std::string onednn_version() { return ""; }
void onednn_threads(int) {}

#endif

}  // namespace credence::yardstick
