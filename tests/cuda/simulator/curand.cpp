// libcurand: ONNX Runtime links against it and calls nothing.
extern "C" int curandGetVersion(int* version) {
  *version = 0;
  return 0;
}
