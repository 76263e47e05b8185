# Compiles each public header alone and twice: it includes what it needs and guards itself. The C header as C and as C++.
#   cmake -DINCLUDE=... -DWORK=... -DCC=... -DCXX=... -P headers_test.cmake
set(warnings -Wall -Wextra -Wpedantic -Wshadow -Werror)
file(REMOVE_RECURSE ${WORK})
file(GLOB headers RELATIVE ${INCLUDE} ${INCLUDE}/switchyard/*.hpp ${INCLUDE}/switchyard/*.h)
list(LENGTH headers count)
if(count LESS 10)
  message(FATAL_ERROR "headers: found ${count} below ${INCLUDE}, expected all public ones")
endif()

function(compile header extension)
  string(MAKE_C_IDENTIFIER ${header} name)
  set(source ${WORK}/${name}.${extension})
  file(WRITE ${source} "#include \"${header}\"\n#include \"${header}\"\n")
  execute_process(COMMAND ${ARGN} ${warnings} -fsyntax-only -I ${INCLUDE} ${source}
    RESULT_VARIABLE status ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    message(SEND_ERROR "headers: ${header} does not compile alone and twice as ${extension}:\n${output}")
  endif()
endfunction()

foreach(header IN LISTS headers)
  compile(${header} cpp ${CXX} -std=c++20 -Wconversion -Wno-sign-conversion)
  if(header MATCHES "\\.h$")
    compile(${header} c ${CC} -std=c11)
  endif()
endforeach()
message(STATUS "${count} headers")
