// The one table of tolerances, relative to the largest expected value unless said otherwise.
#pragma once

// Rounding of chains of a few thousand FMAs.
inline constexpr double kF32Tolerance = 1e-5;
// An activation close to the middle of two bf16 values may round to the other one than the reference's.
inline constexpr double kBf16Tolerance = 1e-2;
// What rounding normally distributed weights adds, and activations with the integers, where a batch is a single token of
// few elements; docs/formats.md has what is usual.
inline constexpr double kI8Tolerance = 0.04;
inline constexpr double kE4m3Tolerance = 0.16;
inline constexpr double kI4Tolerance = 0.45;
inline constexpr double kE2m1Tolerance = 0.6;
// Rounding of an output to bf16.
inline constexpr double kBf16OutputTolerance = 5e-3;
// Routing weights between 0 and 1, absolute.
inline constexpr double kWeightTolerance = 2e-6;
