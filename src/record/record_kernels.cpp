#include "record/record_kernels.hpp"

#include "switchyard/cpu.hpp"

namespace switchyard {

extern const RecordKernels kRecordKernelsPlain;
extern const RecordKernels kRecordKernelsAvx2;
extern const RecordKernels kRecordKernelsAvx512;

const RecordKernels& record_kernels() {
  static const bool has_vbmi = __builtin_cpu_supports("avx512vbmi") != 0;
  switch (current_isa()) {
    case Isa::plain:
      return kRecordKernelsPlain;
    case Isa::avx2:
      return kRecordKernelsAvx2;
    default:
      return has_vbmi ? kRecordKernelsAvx512 : kRecordKernelsAvx2;
  }
}

}  // namespace switchyard
