// What the library is built from (seekling/kernels/stamp.py), so that the loader can tell one that is built from other sources.
#include "common.h"

SK_API const char* sk_stamp() { return SK_STAMP; }
