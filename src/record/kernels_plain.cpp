// Any x86-64.
#include <type_traits>

#include "record/record_kernels.hpp"

namespace switchyard {
namespace {

constexpr std::size_t kVectorBytes = 16;

// Parts of this file.
#include "record/base64_inl.hpp"
#include "record/ids_inl.hpp"
#include "record/sort_inl.hpp"

}  // namespace

extern const RecordKernels kRecordKernelsPlain;
const RecordKernels kRecordKernelsPlain{decode_groups, narrow, are_sets, all_ascend, sort_sets};

}  // namespace switchyard
