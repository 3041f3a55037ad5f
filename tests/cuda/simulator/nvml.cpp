// libnvidia-ml: one GPU, whose memory is this process's.
#include <cstddef>
#include <cstdio>

#include "device.h"

namespace {

struct Memory {
  unsigned long long total, unused, used;
};

struct Utilization {
  unsigned gpu, memory;
};

}  // namespace

extern "C" {

int nvmlInit_v2() { return 0; }

int nvmlInitWithFlags(unsigned) { return 0; }

int nvmlShutdown() { return 0; }

int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 1;
  return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned number, void** handle) {
  constexpr int kInvalidArgument = 2;
  *handle = nullptr;
  return number ? kInvalidArgument : 0;
}

int nvmlDeviceGetName(void*, char* name, unsigned size) {
  std::snprintf(name, size, "Simulated GPU");
  return 0;
}

int nvmlSystemGetDriverVersion(char* version, unsigned size) {
  std::snprintf(version, size, "0");
  return 0;
}

int nvmlDeviceGetMemoryInfo(void*, Memory* memory) {
  *memory = {device::total_bytes(), device::total_bytes() - device::used_bytes(), device::used_bytes()};
  return 0;
}

int nvmlDeviceGetUtilizationRates(void*, Utilization* utilization) {
  *utilization = {25, 10};
  return 0;
}

const char* nvmlErrorString(int) { return "an error"; }
}
