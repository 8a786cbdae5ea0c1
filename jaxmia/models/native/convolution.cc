// Entry points of convolutions.

#include "convolution.h"
#include "entry.h"
#include "narrow.h"

namespace jaxmia {

// What is known of a convolution besides its arrays, and the most threads that compute it.
struct Attributes {
  int64_t threads, down, across, top, left, gap_down, gap_across, groups;
};

namespace {

Shape ShapeOf(const Array& inputs, const Array& kernels, const Array& outputs, const Attributes& known) {
  const auto in = inputs.dimensions(), weights = kernels.dimensions(), out = outputs.dimensions();
  return {in[0],
          in[1],
          in[2],
          in[3],
          in[4],
          weights[1],
          weights[2],
          weights[4],
          out[2],
          out[3],
          known.down,
          known.across,
          known.top,
          known.left,
          known.gap_down,
          known.gap_across,
          known.groups};
}

// The way to compute groups whose results are sums over so many numbers: narrow ones by words, if they fill these, and if
// vectors multiply such words as fast as float32 (Intel's, which have tiles besides, do not).
template <class Arithmetic, typename Function>
Function* Way(const Shape& shape, int64_t numbers, int64_t results, Function* wide, Function* narrow,
              Function* by_words) {
  constexpr int kNumbers = Arithmetic::kNumbers;
  const Groups words{shape.groups, shape.taps(), numbers / kNumbers, results};
  if (numbers % kNumbers == 0 && !HasTiles() && IsNarrow(words)) return by_words;
  return IsNarrow({shape.groups, shape.taps(), numbers, results}) ? narrow : wide;
}

ffi::Error ConvForward(ffi::ThreadPool pool, Array inputs, Array kernels, Result outputs, Attributes known) {
  const Shape shape = ShapeOf(inputs, kernels, *outputs, known);
  return For(inputs, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    const auto forward = Way<A>(shape, shape.channels_of_group(), shape.features_of_group(), Forward<A>,
                                NarrowForward<A, Float32>, NarrowForward<A, A>);
    forward({pool, known.threads}, shape, Numbers<A>(inputs), Numbers<A>(kernels), Numbers<A>(*outputs));
  });
}

ffi::Error ConvInputGradient(ffi::ThreadPool pool, Array cotangents, Array kernels, Result inputs, Attributes known) {
  const Shape shape = ShapeOf(*inputs, kernels, cotangents, known);
  return For(cotangents, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    const auto gradient = Way<A>(shape, shape.features_of_group(), shape.channels_of_group(), InputGradient<A>,
                                 NarrowInputGradient<A, Float32>, NarrowInputGradient<A, A>);
    gradient({pool, known.threads}, shape, Numbers<A>(cotangents), Numbers<A>(kernels), Numbers<A>(*inputs));
  });
}

ffi::Error ConvKernelGradient(ffi::ThreadPool pool, Array inputs, Array cotangents, Result kernels, Attributes known) {
  const Shape shape = ShapeOf(inputs, *kernels, cotangents, known);
  return For(inputs, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    const bool narrow = IsNarrow({shape.groups, shape.taps(), shape.channels_of_group(), shape.features_of_group()});
    const auto gradient = narrow ? NarrowKernelGradient<A> : KernelGradient<A>;
    gradient({pool, known.threads}, shape, Numbers<A>(inputs), Numbers<A>(cotangents), Numbers<A>(*kernels));
  });
}

}  // namespace
}  // namespace jaxmia

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(jaxmia::Attributes, StructMember<int64_t>("threads"),
                                      StructMember<int64_t>("down"), StructMember<int64_t>("across"),
                                      StructMember<int64_t>("top"), StructMember<int64_t>("left"),
                                      StructMember<int64_t>("gap_down"), StructMember<int64_t>("gap_across"),
                                      StructMember<int64_t>("groups"));

#define JAXMIA_CONVOLUTION(symbol, function)                                                                  \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(symbol, jaxmia::function,                                                     \
                                ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()                                        \
                                    .Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>()         \
                                    .Attrs<jaxmia::Attributes>())

JAXMIA_CONVOLUTION(jaxmia_conv_forward, ConvForward);
JAXMIA_CONVOLUTION(jaxmia_conv_input_gradient, ConvInputGradient);
JAXMIA_CONVOLUTION(jaxmia_conv_kernel_gradient, ConvKernelGradient);
