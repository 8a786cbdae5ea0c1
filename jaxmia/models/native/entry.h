// What the entry points of the kernels for XLA on CPUs share.

#pragma once

#include <new>

#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxmia {

using Array = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;
using Vectors = ffi::Buffer<ffi::F32>;
using ResultVectors = ffi::ResultBuffer<ffi::F32>;

// Calls work().
template <typename Work>
ffi::Error Run(Work work) {
  try {
    work();
    return ffi::Error::Success();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory for the work of the kernels");
  }
}

// Calls work(arithmetic) for the type of an array's numbers.
template <typename Work>
ffi::Error For(const Array& array, Work work) {
  if (array.element_type() == ffi::DataType::F32) return Run([&] { work(Float32{}); });
#if defined(__AVX512BF16__)
  if (array.element_type() == ffi::DataType::BF16) return Run([&] { work(BFloat16{}); });
#endif
  return ffi::Error::InvalidArgument("the kernels do not compute in this type on this processor");
}

template <class Arithmetic>
typename Arithmetic::Number* Numbers(const Array& array) {
  return static_cast<typename Arithmetic::Number*>(array.untyped_data());
}

}  // namespace jaxmia
