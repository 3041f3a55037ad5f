// The simulated device, as its libraries see it: memory and streams. Owned by libcudart; the others link against it.
#pragma once

#include <cstddef>
#include <functional>

namespace device {

using Work = std::function<void()>;

// Put work on a stream. Nothing of it happens before somebody waits for the stream.
void enqueue(void* stream, Work work);

// Bytes that cudaMalloc gave and cudaFree did not take back yet, and all that there are.
std::size_t used_bytes();
std::size_t total_bytes();

// Whether kernels and products do anything.
bool computes();

// Let the device be busy for as long as these floating-point operations take, if it is told how fast it is.
void take_time_of(double operations);

// A failure that the next call must return, as tests ask for it; 0 if none. A device that failed for good keeps failing.
int failure();

// Say on stderr what this stand-in cannot do and end the process: a wrong answer would look like ours.
[[noreturn]] void give_up(const char* what, const char* which);

}  // namespace device
