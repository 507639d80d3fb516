// Faults of a library of products that a test plants: how many rows there are changes the order of a row's sum.
#pragma once

namespace credence::emulation {

enum class PlantedProducts {
  kNone,     // and rows are not checked
  kChecked,  // no fault
  kByRange,  // another order above 1,024 rows, until one algorithm is asked for
  kBySeven,  // another order for seven rows
};

void plant(PlantedProducts fault);
PlantedProducts planted_products();

}  // namespace credence::emulation
