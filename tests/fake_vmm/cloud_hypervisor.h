/* SPDX-License-Identifier: MIT */
/* cloud_hypervisor: what the files of fake_cloud_hypervisor share beyond fake.h. */
#ifndef HYPEFS_TESTS_FAKE_VMM_CLOUD_HYPERVISOR_H
#define HYPEFS_TESTS_FAKE_VMM_CLOUD_HYPERVISOR_H

#include "fake.h"

/* 0, or -1 with the fault's text. fake->config is the VM's. */
int cloud_hypervisor_boot(struct fake *fake, char fault[static FAKE_TEXT_SIZE]);
int cloud_hypervisor_save(const struct fake *fake, const char *folder,
                          char fault[static FAKE_TEXT_SIZE]);
/* *ret_damaged: its memory is not all there, which shows when the VM runs. */
int cloud_hypervisor_restore(struct fake *fake, const char *folder, bool *ret_damaged,
                             char fault[static FAKE_TEXT_SIZE]);

#endif
