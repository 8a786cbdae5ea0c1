// Entry points of all but convolutions.

#include "attention.h"
#include "dense.h"
#include "entry.h"
#include "norm.h"
#include "sgd.h"

namespace jaxmia {
namespace {

NormShape NormShapeOf(const Array& inputs) {
  const auto sizes = inputs.dimensions();
  return {sizes[0], sizes[1], sizes[2]};
}

ffi::Error NormForwardOf(ffi::ThreadPool pool, Array inputs, Array shortcuts, Vectors scale, Vectors bias,
                         Result outputs, ResultVectors mean, ResultVectors variance, int64_t threads,
                         int64_t activation, float epsilon) {
  return For(inputs, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    NormForward<A>({pool, threads}, NormShapeOf(inputs), Activation(activation), epsilon, Numbers<A>(inputs),
                   Numbers<A>(shortcuts), scale.typed_data(), bias.typed_data(), Numbers<A>(*outputs),
                   mean->typed_data(), variance->typed_data());
  });
}

ffi::Error NormBackwardOf(ffi::ThreadPool pool, Array inputs, Array outputs, Array cotangents, Vectors scale,
                          Vectors bias, Vectors mean, Vectors variance, Result input_slopes, Result shortcut_slopes,
                          ResultVectors scale_slope, ResultVectors bias_slope, int64_t threads, int64_t activation,
                          float epsilon) {
  return For(inputs, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    NormBackward<A>({pool, threads}, NormShapeOf(inputs), Activation(activation), epsilon, Numbers<A>(inputs),
                    Numbers<A>(outputs), Numbers<A>(cotangents), scale.typed_data(), bias.typed_data(),
                    mean.typed_data(), variance.typed_data(), Numbers<A>(*input_slopes), Numbers<A>(*shortcut_slopes),
                    scale_slope->typed_data(), bias_slope->typed_data());
  });
}

float* Optional(const Vectors& array) { return array.element_count() ? array.typed_data() : nullptr; }

DenseShape DenseShapeOf(const Array& inputs, int64_t units, bool relu) {
  const auto sizes = inputs.dimensions();
  return {sizes[0], sizes[1], sizes[2], units, relu};
}

ffi::Error DenseForwardOf(Array inputs, Vectors weights, Vectors bias, Result outputs, bool relu) {
  const DenseShape shape = DenseShapeOf(inputs, weights.dimensions()[2], relu);
  return For(inputs, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    DenseForward<A>(shape, Numbers<A>(inputs), weights.typed_data(), Optional(bias), Numbers<A>(*outputs));
  });
}

ffi::Error DenseBackwardOf(Array inputs, Vectors weights, Array outputs, Array cotangents, Result input_slopes,
                           ResultVectors weight_slopes, ResultVectors bias_slopes, bool relu) {
  const DenseShape shape = DenseShapeOf(inputs, weight_slopes->dimensions()[2], relu);
  return For(inputs, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    DenseBackward<A>(shape, Numbers<A>(inputs), weights.typed_data(), Numbers<A>(outputs), Numbers<A>(cotangents),
                     input_slopes->element_count() ? Numbers<A>(*input_slopes) : nullptr, weight_slopes->typed_data(),
                     Optional(*bias_slopes));
  });
}

AttentionShape AttentionShapeOf(const Vectors& queries, const Vectors& keys, const Vectors& values, float scale) {
  const auto of = queries.dimensions();
  return {of[0], of[1], of[2], of[3], keys.dimensions()[3], of[4], values.dimensions()[4], scale};
}

PerScore PerScoreOf(const Vectors& array) {
  return {Optional(array), array.dimensions()[1], array.dimensions()[2]};
}

ffi::Error AttentionForwardOf(Vectors queries, Vectors keys, Vectors values, Vectors bias, Vectors factors,
                              ResultVectors outputs, float scale) {
  return Run([&] {
    AttentionForward(AttentionShapeOf(queries, keys, values, scale), queries.typed_data(), keys.typed_data(),
                     values.typed_data(), PerScoreOf(bias), PerScoreOf(factors), outputs->typed_data());
  });
}

ffi::Error AttentionBackwardOf(Vectors queries, Vectors keys, Vectors values, Vectors bias, Vectors factors,
                               Vectors cotangents, ResultVectors query_slopes, ResultVectors key_slopes,
                               ResultVectors value_slopes, float scale) {
  return Run([&] {
    AttentionBackward(AttentionShapeOf(queries, keys, values, scale), queries.typed_data(), keys.typed_data(),
                      values.typed_data(), PerScoreOf(bias), PerScoreOf(factors), cotangents.typed_data(),
                      query_slopes->typed_data(), key_slopes->typed_data(), value_slopes->typed_data());
  });
}

ffi::Error Sgd(Vectors rates, Vectors decays, ffi::Buffer<ffi::PRED> active, ffi::RemainingArgs arrays,
               ffi::RemainingRets results, float momentum, ffi::Span<const int64_t> decayed) {
  const size_t count = decayed.size();
  const int64_t models = rates.element_count();
  for (size_t i = 0; i < count; ++i) {
    const auto weights = arrays.get<Vectors>(i), memory = arrays.get<Vectors>(count + i),
               slopes = arrays.get<Vectors>(2 * count + i);
    auto new_weights = results.get<Vectors>(i), new_memory = results.get<Vectors>(count + i);
    if (!weights || !memory || !slopes || !new_weights || !new_memory)
      return ffi::Error::InvalidArgument("expected float32 weights, momentum and gradients");
    const int64_t size = weights->element_count() / models;
    for (int64_t m = 0, at = 0; m < models; ++m, at += size)
      SgdStep({rates.typed_data()[m], decayed[i] ? decays.typed_data()[m] : 0, momentum, active.typed_data()[m]}, size,
              weights->typed_data() + at, memory->typed_data() + at, slopes->typed_data() + at,
              (*new_weights)->typed_data() + at, (*new_memory)->typed_data() + at);
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace jaxmia

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxmia_norm_forward, jaxmia::NormForwardOf,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>()
                                  .Arg<jaxmia::Vectors>().Arg<jaxmia::Vectors>()
                                  .Ret<ffi::AnyBuffer>().Ret<jaxmia::Vectors>().Ret<jaxmia::Vectors>()
                                  .Attr<int64_t>("threads").Attr<int64_t>("activation").Attr<float>("epsilon"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxmia_norm_backward, jaxmia::NormBackwardOf,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>()
                                  .Arg<jaxmia::Vectors>().Arg<jaxmia::Vectors>()
                                  .Arg<jaxmia::Vectors>().Arg<jaxmia::Vectors>()
                                  .Ret<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>()
                                  .Ret<jaxmia::Vectors>().Ret<jaxmia::Vectors>()
                                  .Attr<int64_t>("threads").Attr<int64_t>("activation").Attr<float>("epsilon"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxmia_dense_forward, jaxmia::DenseForwardOf,
                              ffi::Ffi::Bind().Arg<ffi::AnyBuffer>().Arg<jaxmia::Vectors>().Arg<jaxmia::Vectors>()
                                  .Ret<ffi::AnyBuffer>().Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxmia_dense_backward, jaxmia::DenseBackwardOf,
                              ffi::Ffi::Bind().Arg<ffi::AnyBuffer>().Arg<jaxmia::Vectors>().Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>()
                                  .Ret<jaxmia::Vectors>().Ret<jaxmia::Vectors>().Attr<bool>("relu"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxmia_attention_forward, jaxmia::AttentionForwardOf,
                              ffi::Ffi::Bind().Arg<jaxmia::Vectors>().Arg<jaxmia::Vectors>().Arg<jaxmia::Vectors>()
                                  .Arg<jaxmia::Vectors>().Arg<jaxmia::Vectors>()
                                  .Ret<jaxmia::Vectors>().Attr<float>("scale"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxmia_attention_backward, jaxmia::AttentionBackwardOf,
                              ffi::Ffi::Bind().Arg<jaxmia::Vectors>().Arg<jaxmia::Vectors>().Arg<jaxmia::Vectors>()
                                  .Arg<jaxmia::Vectors>().Arg<jaxmia::Vectors>().Arg<jaxmia::Vectors>()
                                  .Ret<jaxmia::Vectors>().Ret<jaxmia::Vectors>().Ret<jaxmia::Vectors>()
                                  .Attr<float>("scale"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxmia_sgd, jaxmia::Sgd,
                              ffi::Ffi::Bind().Arg<jaxmia::Vectors>().Arg<jaxmia::Vectors>()
                                  .Arg<ffi::Buffer<ffi::PRED>>().RemainingArgs().RemainingRets()
                                  .Attr<float>("momentum").Attr<ffi::Span<const int64_t>>("decayed"));

// Intel's vectors multiply bfloat16 at half the rate of float32, but its tiles at ten times as much.
extern "C" bool jaxmia_multiplies_bfloat16() {
#if defined(__AVX512BF16__)
  return jaxmia::HasTiles() || !__builtin_cpu_is("intel");
#else
  return false;
#endif
}
