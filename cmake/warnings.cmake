# switchyard_warnings(target): the warnings that our own targets are built with.
function(switchyard_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow
    $<$<COMPILE_LANGUAGE:CXX>:-Wconversion -Wno-sign-conversion -Wnon-virtual-dtor>)
  if(SWITCHYARD_STRICT)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
endfunction()
