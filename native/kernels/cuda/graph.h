// Launches that are recorded once and run again: the table's record, recorded, replay and free_graph, on CUDA's graphs.
#pragma once

#include "backend.h"

namespace credence::cuda {

int record(credence_backend* backend);
credence_graph* recorded(credence_backend* backend);
int replay(credence_backend* backend, credence_graph* graph);
void free_graph(credence_backend* backend, credence_graph* graph);

}  // namespace credence::cuda
