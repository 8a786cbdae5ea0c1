// Entry points of convolutions.

#include "convolution.h"
#include "depthwise.h"
#include "entry.h"

namespace jaxmia {
namespace {

Shape ShapeOf(const Array& inputs, const Array& kernels, const Array& outputs, int64_t down, int64_t across,
              int64_t top, int64_t left) {
  const auto in = inputs.dimensions(), weights = kernels.dimensions(), out = outputs.dimensions();
  return {in[0],      in[1],  in[2],  in[3], in[4],  weights[1], weights[2],
          weights[4], out[2], out[3], down,  across, top,        left};
}

ffi::Error ConvForward(ffi::ThreadPool pool, Array inputs, Array kernels, Result outputs, int64_t threads, int64_t down,
                       int64_t across, int64_t top, int64_t left) {
  const Shape shape = ShapeOf(inputs, kernels, *outputs, down, across, top, left);
  return For(inputs, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    Forward<A>({pool, threads}, shape, Numbers<A>(inputs), Numbers<A>(kernels), Numbers<A>(*outputs));
  });
}

ffi::Error ConvInputGradient(ffi::ThreadPool pool, Array cotangents, Array kernels, Result inputs, int64_t threads,
                             int64_t down, int64_t across, int64_t top, int64_t left) {
  const Shape shape = ShapeOf(*inputs, kernels, cotangents, down, across, top, left);
  return For(cotangents, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    InputGradient<A>({pool, threads}, shape, Numbers<A>(cotangents), Numbers<A>(kernels), Numbers<A>(*inputs));
  });
}

ffi::Error ConvKernelGradient(ffi::ThreadPool pool, Array inputs, Array cotangents, Result kernels, int64_t threads,
                              int64_t down, int64_t across, int64_t top, int64_t left) {
  const Shape shape = ShapeOf(inputs, *kernels, cotangents, down, across, top, left);
  return For(inputs, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    KernelGradient<A>({pool, threads}, shape, Numbers<A>(inputs), Numbers<A>(cotangents), Numbers<A>(*kernels));
  });
}

DepthwiseShape DepthwiseShapeOf(const Array& inputs, const Array& kernels, const Array& outputs, int64_t down,
                                int64_t across, int64_t top, int64_t left, int64_t gap_down, int64_t gap_across) {
  const auto in = inputs.dimensions(), weights = kernels.dimensions(), out = outputs.dimensions();
  return {in[0],  in[1], in[2],  in[3], in[4], weights[1], weights[2], out[2],
          out[3], down,  across, top,   left,  gap_down,   gap_across};
}

ffi::Error DepthwiseForwardOf(ffi::ThreadPool pool, Array inputs, Array kernels, Result outputs, int64_t threads,
                              int64_t down, int64_t across, int64_t top, int64_t left, int64_t gap_down,
                              int64_t gap_across) {
  const auto shape = DepthwiseShapeOf(inputs, kernels, *outputs, down, across, top, left, gap_down, gap_across);
  return For(inputs, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    DepthwiseForward<A>({pool, threads}, shape, Numbers<A>(inputs), Numbers<A>(kernels), Numbers<A>(*outputs));
  });
}

ffi::Error DepthwiseInputGradientOf(ffi::ThreadPool pool, Array cotangents, Array kernels, Result inputs,
                                    int64_t threads, int64_t down, int64_t across, int64_t top, int64_t left,
                                    int64_t gap_down, int64_t gap_across) {
  const auto shape = DepthwiseShapeOf(*inputs, kernels, cotangents, down, across, top, left, gap_down, gap_across);
  return For(cotangents, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    DepthwiseInputGradient<A>({pool, threads}, shape, Numbers<A>(cotangents), Numbers<A>(kernels), Numbers<A>(*inputs));
  });
}

ffi::Error DepthwiseKernelGradientOf(ffi::ThreadPool pool, Array inputs, Array cotangents, Result kernels,
                                     int64_t threads, int64_t down, int64_t across, int64_t top, int64_t left,
                                     int64_t gap_down, int64_t gap_across) {
  const auto shape = DepthwiseShapeOf(inputs, *kernels, cotangents, down, across, top, left, gap_down, gap_across);
  return For(inputs, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    DepthwiseKernelGradient<A>({pool, threads}, shape, Numbers<A>(inputs), Numbers<A>(cotangents),
                               Numbers<A>(*kernels));
  });
}

}  // namespace
}  // namespace jaxmia

#define JAXMIA_CONVOLUTION(symbol, function, ...)                                                                 \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(symbol, jaxmia::function,                                                         \
                                ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()                                            \
                                    .Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>()             \
                                    .Attr<int64_t>("threads").Attr<int64_t>("down").Attr<int64_t>("across")        \
                                    .Attr<int64_t>("top").Attr<int64_t>("left") __VA_ARGS__)

#define JAXMIA_DEPTHWISE(symbol, function) \
  JAXMIA_CONVOLUTION(symbol, function, .Attr<int64_t>("gap_down").Attr<int64_t>("gap_across"))

JAXMIA_CONVOLUTION(jaxmia_conv_forward, ConvForward);
JAXMIA_CONVOLUTION(jaxmia_conv_input_gradient, ConvInputGradient);
JAXMIA_CONVOLUTION(jaxmia_conv_kernel_gradient, ConvKernelGradient);

JAXMIA_DEPTHWISE(jaxmia_depthwise_forward, DepthwiseForwardOf);
JAXMIA_DEPTHWISE(jaxmia_depthwise_input_gradient, DepthwiseInputGradientOf);
JAXMIA_DEPTHWISE(jaxmia_depthwise_kernel_gradient, DepthwiseKernelGradientOf);
