// libcuda: ONNX Runtime links against one function of the driver itself.
#include <cstdlib>

extern "C" int cuTensorMapEncodeTiled() { std::abort(); }
