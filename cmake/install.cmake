include(CMakePackageConfigHelpers)

install(TARGETS switchyard EXPORT switchyard-targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/switchyard DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT switchyard-targets NAMESPACE switchyard::
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/switchyard)
get_target_property(SWITCHYARD_LIBRARY_TYPE switchyard TYPE)
configure_package_config_file(cmake/switchyard-config.cmake.in switchyard-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/switchyard)
write_basic_package_version_file(switchyard-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/switchyard-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/switchyard-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/switchyard)
if(SWITCHYARD_CLI)
  install(TARGETS switchyard-cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
