/* SPDX-License-Identifier: MIT */
#include "util/thread.h"

#include <pthread.h>

int thread_detach(void *(*run)(void *argument), void *argument, struct error *err)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int code = pthread_create(&thread, &attributes, run, argument);
    pthread_attr_destroy(&attributes);
    return code == 0 ? 0 : error_errno(err, code, "cannot start a thread");
}
