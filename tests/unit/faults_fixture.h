/* SPDX-License-Identifier: MIT */
/* faults_fixture: what is in a world's store, as one text that can be compared. */
#ifndef HYPEFS_TESTS_UNIT_FAULTS_FIXTURE_H
#define HYPEFS_TESTS_UNIT_FAULTS_FIXTURE_H

#include "faults.h"
#include "world.h"

enum { DUMP_SIZE = 8192 };

void world_dump(const struct world *world, char ret[static DUMP_SIZE]);

#endif
