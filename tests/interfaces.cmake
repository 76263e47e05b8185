# What others build on: the C API, the headers, the installed tree, the objects' symbols.

add_executable(capi_test capi_test.c capi_route_test.c capi_options_test.c capi_balance_test.c
  capi_expert_test.c capi_layer_test.c capi_model_test.c)
set_target_properties(capi_test PROPERTIES C_STANDARD 11 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
target_compile_definitions(capi_test PRIVATE _POSIX_C_SOURCE=200809L)
target_link_libraries(capi_test PRIVATE switchyard m)
switchyard_warnings(capi_test)
add_test(NAME capi_test
  COMMAND capi_test ${CMAKE_CURRENT_SOURCE_DIR}/golden ${CMAKE_CURRENT_BINARY_DIR})

foreach(name IN ITEMS balance train_router)
  add_executable(${name}_example ${PROJECT_SOURCE_DIR}/examples/${name}.cpp)
  target_link_libraries(${name}_example PRIVATE switchyard)
  switchyard_warnings(${name}_example)
  add_test(NAME ${name}_example COMMAND ${name}_example)
endforeach()

add_test(NAME headers_test COMMAND ${CMAKE_COMMAND}
  -DINCLUDE=${PROJECT_SOURCE_DIR}/include -DWORK=${CMAKE_CURRENT_BINARY_DIR}/headers
  -DCC=${CMAKE_C_COMPILER} -DCXX=${CMAKE_CXX_COMPILER}
  -P ${CMAKE_CURRENT_SOURCE_DIR}/headers_test.cmake)

add_test(NAME install_test COMMAND ${CMAKE_COMMAND}
  -DBUILD=${PROJECT_BINARY_DIR} -DCONSUMER=${CMAKE_CURRENT_SOURCE_DIR}/install/consumer
  -DWORK=${CMAKE_CURRENT_BINARY_DIR}/install -DVERSION=${PROJECT_VERSION} -DCLI=${SWITCHYARD_CLI}
  -DGENERATOR=${CMAKE_GENERATOR} -DCC=${CMAKE_C_COMPILER} -DCXX=${CMAKE_CXX_COMPILER} -DFLAGS=${CMAKE_CXX_FLAGS}
  -P ${CMAKE_CURRENT_SOURCE_DIR}/install/install_test.cmake)

add_test(NAME symbols_test COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/symbols_test.sh ${CMAKE_NM} "${CMAKE_CXX_FLAGS}"
  "$<FILTER:$<TARGET_OBJECTS:switchyard>,INCLUDE,/kernels_>" COMMAND_EXPAND_LISTS)
set_tests_properties(symbols_test PROPERTIES SKIP_RETURN_CODE 77)

set_tests_properties(capi_test balance_example train_router_example headers_test install_test PROPERTIES TIMEOUT 600)
