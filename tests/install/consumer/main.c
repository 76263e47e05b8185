/* The installed library from C. */
#include <stdio.h>
#include <string.h>

#include "switchyard/switchyard.h"

int main(void) {
  const float logits[] = {0, 2, 1};
  int32_t expert[2] = {-1, -1};
  float weight[2] = {0, 0};
  switchyard_router_options options = {.struct_size = sizeof options, .topk = 2, .normalize = 1};
  switchyard_const_matrix matrix = {logits, SWITCHYARD_DTYPE_F32, 1, 3, 0};
  if (switchyard_route_logits(matrix, &options, expert, weight, NULL) != SWITCHYARD_OK) {
    printf("%s\n", switchyard_last_error());
    return 1;
  }
  printf("%s: experts %d %d\n", switchyard_version(), (int)expert[0], (int)expert[1]);
  if (switchyard_set_isa("none") != SWITCHYARD_INVALID_ARGUMENT || strlen(switchyard_last_error()) == 0) {
    return 1;
  }
  return expert[0] == 1 && expert[1] == 2 && weight[0] > weight[1] ? 0 : 1;
}
