// Attention over packed sequences, from the parameters of the two kernels that ONNX Runtime chooses from.
#pragma once

#include "device.h"

device::Work flash_attention(const void* parameters);

template <typename T>
device::Work memory_efficient_attention(const void* parameters);
