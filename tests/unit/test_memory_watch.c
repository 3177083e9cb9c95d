/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>

#include "fork/memory_watch.h"
#include "frames.h"
#include "gate.h"
#include "test.h"
#include "util/process.h"

enum { FORKS = 1000, BOXES = 2, DEADLINE_MS = 20000 };

/* A fork's memory: a page for each mailbox, which the guest (the test) writes to while the watch
 * reads it. */
struct guest {
    pthread_mutex_t lock;
    uint8_t page[BOXES * FRAME_SIZE];
    bool dead;
    unsigned looks;
    struct candidate candidate[BOXES];
    struct delivery delivery[BOXES];
    struct consume consume[BOXES];
    struct ack_wait wait[BOXES];
    struct watched watched;
};

struct world {
    struct memory_watch *watch;
    struct guest guests[FORKS];
};

static int read_page(void *context, uint64_t offset, void *bytes, size_t size, struct error *err)
{
    struct guest *guest = context;
    pthread_mutex_lock(&guest->lock);
    int r = guest->dead ? error_set(err, EIO, "the VM has ended") : 0;
    if (r == 0)
        memcpy(bytes, guest->page + offset, size);
    guest->looks++;
    pthread_mutex_unlock(&guest->lock);
    return r;
}

static void plant(struct guest *guest, size_t box)
{
    uint8_t *page = guest->page + box * FRAME_SIZE;
    frames_put(page, FRAME_FORK, "m", "token", 1, "{}");
    guest->candidate[box] =
        (struct candidate){.offset = box * FRAME_SIZE, .capacity = FRAME_CAPACITY};
    frame_decode_marker(FRAME_FORK, page, FRAME_SIZE, &guest->candidate[box].marker);
    guest->delivery[box] = (struct delivery){.kind = FRAME_FORK, .target_count = 1};
    guest->delivery[box].targets[0] = &guest->candidate[box];
    guest->consume[box].delivery = &guest->delivery[box];
    guest->watched.frames[box] =
        (struct watched_frame){.consume = &guest->consume[box], .wait = &guest->wait[box]};
}

static void start_with(struct world *world, struct guest *guest, size_t boxes)
{
    *guest = (struct guest){.lock = PTHREAD_MUTEX_INITIALIZER};
    guest->watched = (struct watched){
        .io = {.read = read_page, .context = guest}, .count = boxes, .event_fd = -1};
    for (size_t i = 0; i < boxes; i++)
        plant(guest, i);
    assert_int_equal(memory_watch_add(world->watch, &guest->watched, NULL), 0);
}

static void start(struct world *world, struct guest *guest)
{
    start_with(world, guest, 1);
}

static void consume(struct guest *guest, const char *reason)
{
    const struct frame_layout *layout = &frame_layouts[FRAME_FORK];
    pthread_mutex_lock(&guest->lock);
    memset(guest->page + layout->sequence, 0, FRAME_SIZE - layout->sequence);
    if (reason) {
        memcpy(guest->page + layout->payload, reason, strlen(reason));
        frame_store_u32(guest->page + layout->length, FRAME_REFUSED);
    }
    pthread_mutex_unlock(&guest->lock);
}

static void await(struct world *world, struct guest *guest)
{
    assert_int_equal(process_poll(&guest->watched.event_fd, 1, process_now_ms() + DEADLINE_MS), 1);
    memory_watch_receive(world->watch, &guest->watched, process_now_ms() - DEADLINE_MS);
}

/* The watch's clock and its rests, if a test has them in its hands. */
static struct {
    bool held;
    double now_ms;
    struct gate resting; /* the watch has begun to rest until `until_ms`; */
    double until_ms;
    bool over; /* and that is now */
    pthread_mutex_t *lock;
    pthread_cond_t *changed;
} fake_time;

double __real_process_now_ms(void);
double __wrap_process_now_ms(void);
int __real_pthread_cond_clockwait(pthread_cond_t *changed, pthread_mutex_t *lock, clockid_t clock,
                                  const struct timespec *until);
int __wrap_pthread_cond_clockwait(pthread_cond_t *changed, pthread_mutex_t *lock, clockid_t clock,
                                  const struct timespec *until);

double __wrap_process_now_ms(void)
{
    return fake_time.held ? fake_time.now_ms : __real_process_now_ms();
}

int __wrap_pthread_cond_clockwait(pthread_cond_t *changed, pthread_mutex_t *lock, clockid_t clock,
                                  const struct timespec *until)
{
    if (!fake_time.held)
        return __real_pthread_cond_clockwait(changed, lock, clock, until);
    fake_time.until_ms = (double)until->tv_sec * 1e3 + (double)until->tv_nsec / 1e6;
    fake_time.lock = lock;
    fake_time.changed = changed;
    gate_post(&fake_time.resting);
    pthread_cond_wait(changed, lock);
    bool over = fake_time.over;
    fake_time.over = false;
    return over ? ETIMEDOUT : 0;
}

static void assert_rests_until(double ms)
{
    assert_true(gate_wait(&fake_time.resting, DEADLINE_MS));
    pthread_mutex_lock(fake_time.lock);
    assert_true(fake_time.until_ms > ms - 0.01 && fake_time.until_ms < ms + 0.01);
    pthread_mutex_unlock(fake_time.lock);
}

static void set_time(double ms, bool over)
{
    pthread_mutex_lock(fake_time.lock);
    fake_time.now_ms = ms;
    fake_time.over = over;
    if (over)
        pthread_cond_signal(fake_time.changed);
    pthread_mutex_unlock(fake_time.lock);
}

static unsigned looks_at(struct guest *guest)
{
    pthread_mutex_lock(&guest->lock);
    unsigned looks = guest->looks;
    guest->looks = 0;
    pthread_mutex_unlock(&guest->lock);
    return looks;
}

static void hold_time(double ms)
{
    gate_init(&fake_time.resting);
    fake_time.now_ms = ms;
    fake_time.held = true;
}

static void let_time_go(struct world *world, int guests)
{
    for (int i = 0; i < guests; i++)
        memory_watch_remove(world->watch, &world->guests[i].watched);
    pthread_mutex_lock(fake_time.lock);
    fake_time.held = false;
    pthread_cond_signal(fake_time.changed);
    pthread_mutex_unlock(fake_time.lock);
    gate_finish(&fake_time.resting);
}

static void fork_when_resumed_is_looked_at_often_and_then_less(void **state)
{
    struct world *world = *state;
    hold_time(1000);
    start(world, &world->guests[0]);
    assert_rests_until(1000.05);
    set_time(1000.1, true);
    assert_rests_until(1000.15);
    set_time(1009.9, true);
    assert_rests_until(1009.95);
    set_time(1010.1, true);
    assert_rests_until(1011.9); /* 2 ms after the last look at all, which was at 1009.9 */
    set_time(1080, true);
    assert_rests_until(1090); /* an eighth of its age */
    set_time(2000, true);
    assert_rests_until(2016); /* and at most this */
    let_time_go(world, 1);
}

static void fork_that_joins_is_looked_at_without_those_that_wait(void **state)
{
    struct world *world = *state;
    hold_time(1000);
    start(world, &world->guests[0]);
    assert_rests_until(1000.05);
    set_time(2000, true);
    assert_rests_until(2016);
    looks_at(&world->guests[0]);
    set_time(2001, false);
    start(world, &world->guests[1]);
    assert_rests_until(2000.05); /* at once */
    set_time(2001.5, true);
    assert_rests_until(2001.55);
    assert_int_equal(looks_at(&world->guests[0]), 0);
    assert_int_equal(looks_at(&world->guests[1]), 1);
    set_time(2001.52, false);
    start(world, &world->guests[2]); /* many in a row do not put it off */
    assert_rests_until(2001.55);
    set_time(2002.5, true);
    assert_rests_until(2002.55);
    for (int i = 0; i < 3; i++)
        assert_int_equal(looks_at(&world->guests[i]), 1); /* 2 ms after 2000 it is all of them */
    let_time_go(world, 3);
}

static void fork_whose_frame_changes_is_looked_at_often_for_its_others(void **state)
{
    struct world *world = *state;
    hold_time(1000);
    start_with(world, &world->guests[0], BOXES);
    assert_rests_until(1000.05);
    set_time(2000, true);
    assert_rests_until(2016);
    consume(&world->guests[0], NULL);
    set_time(2016, true);
    assert_rests_until(2016.05);
    set_time(2025.9, true);
    assert_rests_until(2025.95);
    set_time(2026.1, true);
    assert_rests_until(2027.9);
    let_time_go(world, 1);
}

static int setup(void **state)
{
    static struct world world;
    *state = &world;
    return memory_watch_create(&world.watch, NULL);
}

static int teardown(void **state)
{
    struct world *world = *state;
    memory_watch_destroy(world->watch);
    return 0;
}

static void consumed_frame_is_an_ack(void **state)
{
    struct world *world = *state;
    struct guest *guest = world->guests;
    start(world, guest);
    consume(guest, NULL);
    await(world, guest);
    assert_int_equal(guest->wait[0].state, ACK_OK);
    assert_true(guest->wait[0].ms > 0 && guest->wait[0].ms < 2 * DEADLINE_MS);
    memory_watch_remove(world->watch, &guest->watched);
    memory_watch_remove(world->watch, &guest->watched); /* which does nothing */
}

static void refusal_is_made_fit_to_be_shown(void **state)
{
    struct world *world = *state;
    struct guest *guest = world->guests;
    start(world, guest);
    consume(guest, "no\n\033room\xFF");
    await(world, guest);
    assert_int_equal(guest->wait[0].state, ACK_REFUSED);
    assert_string_equal(guest->wait[0].reason, "no  room?");
    memory_watch_remove(world->watch, &guest->watched);
}

/* Each has news of its own; some are gone; and those who leave are not looked at any more. */
static void thousand_forks_are_told_apart(void **state)
{
    struct world *world = *state;
    for (size_t i = 0; i < FORKS; i++)
        start(world, &world->guests[i]);
    for (size_t i = 0; i < FORKS; i += 10) {
        pthread_mutex_lock(&world->guests[i].lock);
        world->guests[i].dead = true;
        pthread_mutex_unlock(&world->guests[i].lock);
    }
    for (size_t i = 1; i < FORKS; i += 2)
        consume(&world->guests[i], NULL);
    for (size_t i = 1; i < FORKS; i += 2) {
        await(world, &world->guests[i]);
        assert_int_equal(world->guests[i].wait[0].state, ACK_OK);
    }
    for (size_t i = 0; i < FORKS; i++)
        memory_watch_remove(world->watch, &world->guests[i].watched);
    for (size_t i = 0; i < FORKS; i += 2)
        assert_int_equal(world->guests[i].wait[0].state, ACK_WAITING);
}

/* Of all waits together. */
static void searches_take_a_fiftieth_of_a_processor(void **state)
{
    struct world *world = *state;
    fake_time.held = true;
    fake_time.now_ms = 1000;
    assert_true(memory_watch_search_due(world->watch) <= 1000);
    memory_watch_searched(world->watch, 10);
    assert_true(memory_watch_search_due(world->watch) == 1490);
    memory_watch_searched(world->watch, 10); /* another wait's, at the same time */
    assert_true(memory_watch_search_due(world->watch) == 1980);
    fake_time.now_ms = 5000;
    memory_watch_searched(world->watch, 2);
    assert_true(memory_watch_search_due(world->watch) == 5098);
    fake_time.held = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(consumed_frame_is_an_ack, setup, teardown),
        cmocka_unit_test_setup_teardown(fork_when_resumed_is_looked_at_often_and_then_less, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(fork_that_joins_is_looked_at_without_those_that_wait, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(fork_whose_frame_changes_is_looked_at_often_for_its_others,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(refusal_is_made_fit_to_be_shown, setup, teardown),
        cmocka_unit_test_setup_teardown(searches_take_a_fiftieth_of_a_processor, setup, teardown),
        cmocka_unit_test_setup_teardown(thousand_forks_are_told_apart, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
