// Entry points of the kernels for XLA on CPUs.

#include "convolution.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxmia {
namespace {

using Array = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

// Calls work(arithmetic) for the type of an array's numbers.
template <typename Work>
ffi::Error For(const Array& array, Work work) {
  if (array.element_type() == ffi::DataType::F32) {
    work(Float32{});
    return ffi::Error::Success();
  }
#if defined(__AVX512BF16__)
  if (array.element_type() == ffi::DataType::BF16) {
    work(BFloat16{});
    return ffi::Error::Success();
  }
#endif
  return ffi::Error::InvalidArgument("the kernels do not compute in this type on this processor");
}

template <class Arithmetic>
typename Arithmetic::Number* Numbers(const Array& array) {
  return static_cast<typename Arithmetic::Number*>(array.untyped_data());
}

Shape ShapeOf(const Array& inputs, const Array& kernels, const Array& outputs, int64_t down, int64_t across,
              int64_t top, int64_t left) {
  const auto in = inputs.dimensions(), weights = kernels.dimensions(), out = outputs.dimensions();
  return {in[0],      in[1],  in[2],  in[3], in[4],  weights[1], weights[2],
          weights[4], out[2], out[3], down,  across, top,        left};
}

ffi::Error ConvForward(Array inputs, Array kernels, Result outputs, int64_t down, int64_t across, int64_t top,
                       int64_t left) {
  const Shape shape = ShapeOf(inputs, kernels, *outputs, down, across, top, left);
  return For(inputs, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    Forward<A>(shape, Numbers<A>(inputs), Numbers<A>(kernels), Numbers<A>(*outputs));
  });
}

ffi::Error ConvInputGradient(Array cotangents, Array kernels, Result inputs, int64_t down, int64_t across, int64_t top,
                             int64_t left) {
  const Shape shape = ShapeOf(*inputs, kernels, cotangents, down, across, top, left);
  return For(cotangents, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    InputGradient<A>(shape, Numbers<A>(cotangents), Numbers<A>(kernels), Numbers<A>(*inputs));
  });
}

ffi::Error ConvKernelGradient(Array inputs, Array cotangents, Result kernels, int64_t down, int64_t across, int64_t top,
                              int64_t left) {
  const Shape shape = ShapeOf(inputs, *kernels, cotangents, down, across, top, left);
  return For(inputs, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    KernelGradient<A>(shape, Numbers<A>(inputs), Numbers<A>(cotangents), Numbers<A>(*kernels));
  });
}

}  // namespace
}  // namespace jaxmia

#define JAXMIA_CONVOLUTION(symbol, function)                                                                      \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(symbol, jaxmia::function,                                                         \
                                ffi::Ffi::Bind().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>() \
                                    .Attr<int64_t>("down").Attr<int64_t>("across").Attr<int64_t>("top").Attr<int64_t>("left"))

JAXMIA_CONVOLUTION(jaxmia_conv_forward, ConvForward);
JAXMIA_CONVOLUTION(jaxmia_conv_input_gradient, ConvInputGradient);
JAXMIA_CONVOLUTION(jaxmia_conv_kernel_gradient, ConvKernelGradient);

extern "C" bool jaxmia_multiplies_bfloat16() {
#if defined(__AVX512BF16__)
  return true;
#else
  return false;
#endif
}
