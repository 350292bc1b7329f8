/* See fake.h. */
#include "fake.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void *_NSConcreteGlobalBlock[32]; // where blocks come from: libSystem has it on a Mac

enum { ROOM = 64, NAME = 32 };

typedef struct {
    char name[NAME];
    long value, first, count; /* a counter's value; a fault's calls left until it starts, and its length */
} entry;

static entry counters[ROOM], faults[ROOM], settings[ROOM];
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static entry *find(entry *table, const char *name, int make) {
    for (int i = 0; i < ROOM; i++) {
        if (!strcmp(table[i].name, name)) return &table[i];
        if (table[i].name[0]) continue;
        if (!make) return NULL;
        snprintf(table[i].name, NAME, "%s", name);
        return &table[i];
    }
    fake_refuse("no room for %s", name);
}

void fake_inject(const char *name, long first, long count) {
    pthread_mutex_lock(&guard);
    entry *fault = find(faults, name, 1);
    fault->first = first;
    fault->count = count;
    pthread_mutex_unlock(&guard);
}

void fake_heal(void) {
    pthread_mutex_lock(&guard);
    memset(faults, 0, sizeof faults);
    memset(settings, 0, sizeof settings);
    pthread_mutex_unlock(&guard);
}

void fake_set(const char *name, long value) {
    pthread_mutex_lock(&guard);
    find(settings, name, 1)->value = value;
    pthread_mutex_unlock(&guard);
}

long fake_setting(const char *name) {
    pthread_mutex_lock(&guard);
    const entry *setting = find(settings, name, 0);
    const long value = setting ? setting->value : 0;
    pthread_mutex_unlock(&guard);
    return value;
}

void fake_hang(const char *fault) {
    if (!fake_fault(fault)) return;
    fake_add("hung", 1);
    for (;;) pause();
}

int fake_fault(const char *name) {
    int fails = 0;
    pthread_mutex_lock(&guard);
    entry *fault = find(faults, name, 0);
    if (fault && fault->first > 0) {
        fault->first--;
    } else if (fault && fault->count) {
        fails = 1;
        if (fault->count > 0) fault->count--;
    }
    pthread_mutex_unlock(&guard);
    return fails;
}

void fake_add(const char *name, long n) {
    pthread_mutex_lock(&guard);
    find(counters, name, 1)->value += n;
    pthread_mutex_unlock(&guard);
}

long fake_count(const char *name) {
    pthread_mutex_lock(&guard);
    const entry *counter = find(counters, name, 0);
    const long value = counter ? counter->value : 0;
    pthread_mutex_unlock(&guard);
    return value;
}

void fake_refuse(const char *sentence, ...) {
    va_list arguments;
    va_start(arguments, sentence);
    fputs("fake: ", stderr);
    vfprintf(stderr, sentence, arguments);
    fputc('\n', stderr);
    abort();
}

__attribute__((constructor)) static void from_environment(void) {
    const char *at = getenv("ANEFAST_FAKE_FAULTS");
    char name[NAME];
    long first, count;
    for (int n; at && sscanf(at, " %31[^:]:%ld:%ld%n", name, &first, &count, &n) == 3; at += n)
        fake_inject(name, first, count);
    at = getenv("ANEFAST_FAKE_SETTINGS");
    for (int n; at && sscanf(at, " %31[^:]:%ld%n", name, &first, &n) == 2; at += n) fake_set(name, first);
}
