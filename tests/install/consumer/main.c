/* The installed library from C. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "switchyard/switchyard.h"

int main(void) {
  const float logits[] = {0, 2, 1};
  int32_t expert[2] = {-1, -1};
  float weight[2] = {0, 0};
  size_t bytes = 0;
  switchyard_router_options options = {.struct_size = sizeof options, .topk = 2, .normalize = SWITCHYARD_NORMALIZE_SUM};
  switchyard_route_outputs outputs = {.struct_size = sizeof outputs,
                                      .expert = {expert, SWITCHYARD_DTYPE_I32},
                                      .weight = {weight, SWITCHYARD_DTYPE_F32}};
  switchyard_const_matrix matrix = {logits, SWITCHYARD_DTYPE_F32, 1, 3, 0};
  if (switchyard_route_workspace_bytes(1, 3, 1, NULL, &bytes) != SWITCHYARD_OK) {
    printf("%s\n", switchyard_last_error());
    return 1;
  }
  void* workspace = aligned_alloc(SWITCHYARD_WORKSPACE_ALIGNMENT, bytes);
  const switchyard_status status = switchyard_route(matrix, &options, NULL, &outputs, workspace, bytes, NULL);
  free(workspace);
  if (status != SWITCHYARD_OK) {
    printf("%s\n", switchyard_last_error());
    return 1;
  }
  printf("%s: experts %d %d\n", switchyard_version(), (int)expert[0], (int)expert[1]);
  if (switchyard_set_isa("none") != SWITCHYARD_INVALID_ARGUMENT || strlen(switchyard_last_error()) == 0) {
    return 1;
  }
  return expert[0] == 1 && expert[1] == 2 && weight[0] > weight[1] ? 0 : 1;
}
