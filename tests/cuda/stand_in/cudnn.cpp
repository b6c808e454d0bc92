// cuDNN is not used: what the project does with it is to keep torch from its attention. Its version is asked for.
#include <cstddef>

extern "C" size_t cudnnGetVersion() { return 92000; }
