// record_kernels() without the rest of the library.
#include "record/record_kernels.hpp"

namespace switchyard {

extern const RecordKernels kRecordKernelsPlain;
extern const RecordKernels kRecordKernelsAvx2;

const RecordKernels& record_kernels() {
  return __builtin_cpu_supports("avx2") ? kRecordKernelsAvx2 : kRecordKernelsPlain;
}

}  // namespace switchyard
