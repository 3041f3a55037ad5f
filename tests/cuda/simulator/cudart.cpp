// libcudart: one device whose memory is the host's. It does what it is asked for as late as it may: work waits on its stream
// until somebody waits for it, so that a buffer that is used again too early shows as a wrong answer.
//
// Environment variables say how; the first two are read once, the others may change.
//
// SIMULATED_CUDA_MEMORY_MIB   all of the device's memory (81920)
// SIMULATED_CUDA_CAPABILITY   its compute capability (9.0)
// SIMULATED_CUDA_FAULT        a file; once it is there, it is taken away and the device fails for good with the number in it
// SIMULATED_CUDA_IDLE         a file; while it is there kernels do nothing, and device memory takes none of the host's
// SIMULATED_CUDA_TFLOPS       while it is idle, let products take as long as at this rate and every launch 3 us (no time)
// SIMULATED_CUDA_LOG          a file to which every launch, copy and wait is added
#include <cuda_runtime_api.h>
#include <cxxabi.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "device.h"
#include "kernels.h"

namespace {

using device::Work;
using Works = std::vector<Work>;

using Clock = std::chrono::steady_clock;

struct Event {
  cudaStream_t stream = nullptr;
  Clock::time_point done_at;
};

constexpr double kLaunch = 3e-6;  // seconds

// What the compiler made of one source file for several cards, as it lies in a library (`fatbinary_section.h`, and read off).
struct FatBinary {
  struct Entry {
    uint16_t kind, version;  // 1: PTX, 2: machine code
    uint32_t header;
    uint64_t size;
    uint32_t unused[3];
    uint32_t architecture;  // 90 of sm_90 and of sm_90a
    uint32_t names[2];
    uint64_t flags;
  };
  struct Header {
    uint32_t magic;
    uint16_t version, size;
    uint64_t entries;
  };
  static constexpr uint64_t kOfOneCard = 1 << 20;  // the `a` of sm_90a: for this compute capability alone

  const char* content;

  // A card runs the code of its generation, if it is not newer than it; the driver compiles PTX that is not newer.
  bool is_for(int major, int minor) const {
    const auto* whole = reinterpret_cast<const Header*>(content);
    const char* entry = content + whole->size;
    for (const char* end = entry + whole->entries; entry < end;) {
      const auto* one = reinterpret_cast<const Entry*>(entry);
      const int capability = 10 * major + minor, architecture = int(one->architecture);
      const bool is_exact = one->flags & kOfOneCard;
      const bool runs = is_exact ? architecture == capability : architecture / 10 == major && architecture <= capability;
      if (one->kind == 1 ? architecture <= capability : runs) return true;
      entry += one->header + one->size;
    }
    return false;
  }
};

struct Kernel {
  std::string name;  // demangled
  FatBinary code;
};

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};

const char* setting(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? value : otherwise;
}

struct Device {
  std::recursive_mutex mutex;
  std::map<const char*, size_t> memory, pinned;  // by address: bytes
  size_t used = 0;
  const size_t total = std::stoull(setting("SIMULATED_CUDA_MEMORY_MIB", "81920")) << 20;
  const int major = std::atoi(setting("SIMULATED_CUDA_CAPABILITY", "9.0"));
  const int minor = std::atoi(std::strchr(setting("SIMULATED_CUDA_CAPABILITY", "9.0"), '.') + 1);
  std::map<cudaStream_t, std::deque<Work>> streams;
  uintptr_t streams_made = 0;
  cudaStream_t capturing = nullptr;
  Works captured;
  std::unordered_map<const void*, Kernel> kernels;  // by the host's stub
  bool computes = true;
  const double flops = std::atof(setting("SIMULATED_CUDA_TFLOPS", "0")) * 1e12;
  Clock::time_point busy_until;
  int lost = 0;
};

// Whether a file is there that a setting names. Asked now and then, as it takes as long as a launch.
bool is_there(const char* setting) {
  const char* path = std::getenv(setting);
  return path && !access(path, F_OK);
}

// Made at the first use and never destroyed: fat binaries register before main and are let go of after it.
Device& gpu() {
  static Device* the_gpu = [] {
    auto* made = new Device;
    made->computes = !is_there("SIMULATED_CUDA_IDLE");
    return made;
  }();
  return *the_gpu;
}

using Lock = std::lock_guard<std::recursive_mutex>;

thread_local cudaError_t last_error = cudaSuccess;
thread_local std::vector<Configuration> configurations;

cudaError_t status(int error) {
  if (error) last_error = static_cast<cudaError_t>(error);
  return static_cast<cudaError_t>(error);
}

void note(const std::string& line) {
  const char* path = std::getenv("SIMULATED_CUDA_LOG");
  if (path && *path) std::ofstream(path, std::ios::app) << line << "\n";
}

// One queue, whatever the stream: work begins when what was asked for before is done.
void take_time(double seconds) {
  if (!gpu().flops || gpu().computes) return;
  const auto duration = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  gpu().busy_until = std::max(gpu().busy_until, Clock::now()) + duration;
}

Clock::time_point done_at() {
  Lock lock(gpu().mutex);
  return gpu().busy_until;
}

void drain(cudaStream_t stream) {
  Lock lock(gpu().mutex);
  gpu().computes = !is_there("SIMULATED_CUDA_IDLE");
  auto& works = gpu().streams[stream];
  while (!works.empty()) {
    const Work work = std::move(works.front());
    works.pop_front();
    if (!gpu().lost) work();
  }
}

void drain_all() {
  Lock lock(gpu().mutex);
  std::vector<cudaStream_t> streams;
  for (const auto& [stream, works] : gpu().streams) streams.push_back(stream);
  for (const auto stream : streams) drain(stream);
}

bool lies_in(const std::map<const char*, size_t>& blocks, const void* address) {
  auto block = blocks.upper_bound(static_cast<const char*>(address));
  return block != blocks.begin() && static_cast<const char*>(address) < (--block)->first + block->second;
}

// Pages of the host that take none until they are written: an idle device may have more memory than the host.
void* allocate(std::map<const char*, size_t>& blocks, size_t size) {
  void* block = mmap(nullptr, size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) device::give_up("the host has no memory left", __func__);
  // NaN, so that what nobody wrote is not taken for a number; an idle device answers with zeros.
  if (gpu().computes) std::memset(block, 0xFF, size);
  blocks[static_cast<const char*>(block)] = size;
  return block;
}

cudaError_t release(std::map<const char*, size_t>& blocks, void* block, size_t* used) {
  if (!block) return cudaSuccess;
  drain_all();
  Lock lock(gpu().mutex);
  const auto found = blocks.find(static_cast<const char*>(block));
  if (found == blocks.end()) device::give_up("freed what was not allocated", __func__);
  if (used) *used -= found->second;
  munmap(block, found->second + 1);
  blocks.erase(found);
  return status(gpu().lost);
}

// A call that waits would make a graph that nobody can replay.
bool is_forbidden() { return gpu().capturing != nullptr; }

cudaError_t launch(const void* stub, dim3 grid, void** arguments, cudaStream_t stream) {
  if (const int error = device::failure()) return status(error);
  Lock lock(gpu().mutex);
  const auto found = gpu().kernels.find(stub);
  if (found == gpu().kernels.end()) device::give_up("a kernel that was never registered", __func__);
  const auto& [name, code] = found->second;
  if (!code.is_for(gpu().major, gpu().minor)) return status(cudaErrorNoKernelImageForDevice);
  note("kernel " + name);
  take_time(kLaunch);
  auto work = kernel(name, grid, arguments);  // also to see that there is such a kernel
  if (gpu().computes) device::enqueue(stream, std::move(work));
  return cudaSuccess;
}

}  // namespace

namespace device {

void enqueue(void* stream, Work work) {
  Lock lock(gpu().mutex);
  if (gpu().capturing == stream && stream)
    gpu().captured.push_back(std::move(work));
  else
    gpu().streams[static_cast<cudaStream_t>(stream)].push_back(std::move(work));
}

std::size_t used_bytes() {
  Lock lock(gpu().mutex);
  return gpu().used;
}

std::size_t total_bytes() { return gpu().total; }

void take_time_of(double operations) {
  Lock lock(gpu().mutex);
  take_time(kLaunch + (gpu().flops ? operations / gpu().flops : 0));
}

bool computes() {
  Lock lock(gpu().mutex);
  return gpu().computes;
}

int failure() {
  Lock lock(gpu().mutex);
  if (!gpu().lost && is_there("SIMULATED_CUDA_FAULT")) {
    const char* path = std::getenv("SIMULATED_CUDA_FAULT");
    std::ifstream(path) >> gpu().lost;
    std::remove(path);
  }
  return gpu().lost;
}

void give_up(const char* what, const char* which) {
  std::fprintf(stderr, "simulated CUDA: %s: %s\n", what, which);
  std::_Exit(99);
}

}  // namespace device

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorNoKernelImageForDevice: return "cudaErrorNoKernelImageForDevice";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    default: return "cudaErrorUnknown";
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorNoKernelImageForDevice: return "no kernel image is available for execution on the device";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    default: return "unknown error";
  }
}

cudaError_t cudaGetLastError() {
  const auto error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return last_error; }

// Memory

cudaError_t cudaMalloc(void** address, size_t size) {
  if (const int error = device::failure()) return status(error);
  Lock lock(gpu().mutex);
  if (is_forbidden()) return status(cudaErrorStreamCaptureUnsupported);
  *address = nullptr;
  if (gpu().used + size > gpu().total) return status(cudaErrorMemoryAllocation);
  *address = allocate(gpu().memory, size);
  gpu().used += size;
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) { return release(gpu().memory, address, &gpu().used); }

cudaError_t cudaHostAlloc(void** address, size_t size, unsigned) {
  if (const int error = device::failure()) return status(error);
  Lock lock(gpu().mutex);
  *address = allocate(gpu().pinned, size);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** address, size_t size) { return cudaHostAlloc(address, size, 0); }

cudaError_t cudaFreeHost(void* address) { return release(gpu().pinned, address, nullptr); }

cudaError_t cudaMemGetInfo(size_t* unused, size_t* total) {
  *total = device::total_bytes();
  *unused = *total - device::used_bytes();
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  Lock lock(gpu().mutex);
  *attributes = {};
  attributes->type = lies_in(gpu().memory, address)   ? cudaMemoryTypeDevice
                     : lies_in(gpu().pinned, address) ? cudaMemoryTypeHost
                                                      : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
  if (const int error = device::failure()) return status(error);
  Lock lock(gpu().mutex);
  const char* way = kind == cudaMemcpyDeviceToHost ? " to host" : kind == cudaMemcpyHostToDevice ? " to device" : " within";
  note("copy " + std::to_string(size) + way);
  const bool to_pageable = kind == cudaMemcpyDeviceToHost && !lies_in(gpu().pinned, to);
  const bool from_pageable = kind == cudaMemcpyHostToDevice && !lies_in(gpu().pinned, from);
  if (from_pageable && !is_forbidden()) {  // it is read before the call returns
    const auto* begin = static_cast<const char*>(from);
    auto staged = std::make_shared<std::vector<char>>(begin, begin + size);
    device::enqueue(stream, [=] { std::memcpy(to, staged->data(), size); });
    return cudaSuccess;
  }
  device::enqueue(stream, [=] { std::memcpy(to, from, size); });
  if (to_pageable && !is_forbidden()) drain(stream);  // nor does this return before it is written
  return status(gpu().lost);
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
  if (is_forbidden()) return status(cudaErrorStreamCaptureUnsupported);
  const auto error = cudaMemcpyAsync(to, from, size, kind, nullptr);
  drain(nullptr);
  return error;
}

cudaError_t cudaMemsetAsync(void* address, int value, size_t size, cudaStream_t stream) {
  if (const int error = device::failure()) return status(error);
  device::enqueue(stream, [=] { std::memset(address, value, size); });
  return cudaSuccess;
}

cudaError_t cudaMemset(void* address, int value, size_t size) {
  const auto error = cudaMemsetAsync(address, value, size, nullptr);
  drain(nullptr);
  return error;
}

// Streams and events

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  if (const int error = device::failure()) return status(error);
  Lock lock(gpu().mutex);
  *stream = reinterpret_cast<cudaStream_t>(16 * ++gpu().streams_made);
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  drain(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const int error = device::failure()) return status(error);
  if (is_forbidden()) return status(cudaErrorStreamCaptureUnsupported);
  note("wait");
  std::this_thread::sleep_until(done_at());
  drain(stream);
  return status(gpu().lost);
}

cudaError_t cudaDeviceSynchronize() {
  if (is_forbidden()) return status(cudaErrorStreamCaptureUnsupported);
  note("wait for all");
  drain_all();
  return status(device::failure());
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(gpu().mutex);
  reinterpret_cast<Event*>(event)->stream = stream;
  reinterpret_cast<Event*>(event)->done_at = gpu().busy_until;
  return status(device::failure());
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (const int error = device::failure()) return status(error);
  if (is_forbidden()) return status(cudaErrorStreamCaptureUnsupported);
  note("wait");
  std::this_thread::sleep_until(reinterpret_cast<Event*>(event)->done_at);
  drain(reinterpret_cast<Event*>(event)->stream);
  return status(gpu().lost);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) { return cudaEventSynchronize(event); }

// Graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  Lock lock(gpu().mutex);
  drain(stream);
  gpu().capturing = stream;
  gpu().captured.clear();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  Lock lock(gpu().mutex);
  gpu().capturing = nullptr;
  *graph = reinterpret_cast<cudaGraph_t>(new Works(std::move(gpu().captured)));
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* capture) {
  *capture = gpu().capturing && gpu().capturing == stream ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new Works(*reinterpret_cast<Works*>(graph)));
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Works*>(graph);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<Works*>(executable);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (const int error = device::failure()) return status(error);
  for (const auto& work : *reinterpret_cast<Works*>(executable)) device::enqueue(stream, work);
  return cudaSuccess;
}

// Kernels

void** __cudaRegisterFatBinary(void* wrapper) {
  struct Wrapper {
    int magic, version;
    void* content;
  };
  return &static_cast<Wrapper*>(wrapper)->content;
}

void __cudaRegisterFatBinaryEnd(void**) {}

void __cudaUnregisterFatBinary(void**) {}

void __cudaRegisterFunction(void** handle, const char* stub, char*, const char* name, int, void*, void*, void*, void*, int*) {
  int error = 0;
  char* demangled = abi::__cxa_demangle(name, nullptr, nullptr, &error);
  Lock lock(gpu().mutex);
  gpu().kernels[stub] = {error ? name : demangled, {static_cast<const char*>(*handle)}};
  std::free(demangled);
}

void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const auto configuration = configurations.back();
  configurations.pop_back();
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<cudaStream_t*>(stream) = configuration.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(stub));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3, void** arguments, size_t, cudaStream_t stream) {
  return launch(kernel, grid, arguments, stream);
}

cudaError_t cudaLaunchKernel(const void* stub, dim3 grid, dim3, void** arguments, size_t, cudaStream_t stream) {
  return launch(stub, grid, arguments, stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* configuration, const void* stub, void** arguments) {
  return launch(stub, configuration->gridDim, arguments, configuration->stream);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t, cudaFuncAttribute, int, int) { return cudaSuccess; }

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
  *blocks = 2;
  return cudaSuccess;
}

// The device

cudaError_t cudaGetDevice(int* number) {
  *number = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int number) { return number == 0 ? cudaSuccess : status(cudaErrorInvalidDevice); }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

// The sizes of an H100, which is what decides between kernels.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  if (const int error = device::failure()) return status(error);
  *properties = {};
  std::strcpy(properties->name, "Simulated GPU");
  properties->major = gpu().major;
  properties->minor = gpu().minor;
  properties->totalGlobalMem = gpu().total;
  properties->multiProcessorCount = 132;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 2147483647;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->sharedMemPerBlock = 48 << 10;
  properties->sharedMemPerBlockOptin = 227 << 10;
  properties->sharedMemPerMultiprocessor = 228 << 10;
  properties->regsPerBlock = 65536;
  properties->l2CacheSize = 50 << 20;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int number) {
  cudaDeviceProp properties;
  cudaGetDeviceProperties(&properties, number);
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = properties.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = properties.multiProcessorCount; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = int(properties.sharedMemPerBlock); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(properties.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = int(properties.sharedMemPerMultiprocessor); break;
    case cudaDevAttrMaxThreadsPerBlock: *value = properties.maxThreadsPerBlock; break;
    case cudaDevAttrWarpSize: *value = properties.warpSize; break;
    default: device::give_up("no such attribute", std::to_string(attribute).c_str());
  }
  return cudaSuccess;
}

}  // extern "C"
