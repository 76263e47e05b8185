// Visibility of public symbols; everything else is hidden.
#pragma once

#if defined(__GNUC__)
#define SWITCHYARD_API __attribute__((visibility("default")))
#else
#define SWITCHYARD_API
#endif
