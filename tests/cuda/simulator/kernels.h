// The kernels that BERT's graphs launch, written anew for one thread of the host.
#pragma once

#include <driver_types.h>
#include <vector_types.h>

#include <string>

#include "device.h"

// Return what a launch would compute. Arguments are read at once, as CUDA copies them; what they point at is read later.
// `name` is the demangled one.
device::Work kernel(const std::string& name, dim3 grid, void** arguments);
