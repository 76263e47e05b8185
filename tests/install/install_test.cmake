# Installs a build into a folder of its own, then builds and runs a separate project against it.
#   cmake -DBUILD=... -DCONSUMER=... -DWORK=... -DVERSION=... -DCLI=ON|OFF -DGENERATOR=... -DCC=... -DCXX=... -DFLAGS=...
#     -P install_test.cmake
set(prefix ${WORK}/prefix)
file(REMOVE_RECURSE ${WORK})

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "install: '${command}' ended with ${status}, expected 0:\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix})

# What builds the library is not what its users need.
file(GLOB_RECURSE texts ${prefix}/include/* ${prefix}/*.cmake)
if(NOT texts)
  message(FATAL_ERROR "install: found no headers below ${prefix}, expected some")
endif()
foreach(text IN LISTS texts)
  file(READ ${text} content)
  if(content MATCHES "fmt::|fmt/|nlohmann|CLI11")
    message(FATAL_ERROR "install: ${text} names ${CMAKE_MATCH_0}, expected none on it")
  endif()
endforeach()

run(${CMAKE_COMMAND} -S ${CONSUMER} -B ${WORK}/build -G ${GENERATOR} -DCMAKE_BUILD_TYPE=Release
  -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_C_COMPILER=${CC} -DCMAKE_CXX_COMPILER=${CXX}
  "-DCMAKE_C_FLAGS=${FLAGS}" "-DCMAKE_CXX_FLAGS=${FLAGS}"
  -DCMAKE_FIND_PACKAGE_NO_PACKAGE_REGISTRY=ON
  -DCMAKE_DISABLE_FIND_PACKAGE_fmt=ON -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/consumer_cpp)
run(${WORK}/build/consumer_c)
string(FIND "${output}" "${VERSION}:" at)
if(NOT at EQUAL 0)
  message(FATAL_ERROR "install: the C program printed '${output}', expected version ${VERSION} first")
endif()

if(CLI)
  run(${prefix}/bin/switchyard --version)
  if(NOT output STREQUAL "switchyard ${VERSION}\n")
    message(FATAL_ERROR "install: --version printed '${output}', expected 'switchyard ${VERSION}'")
  endif()
endif()
