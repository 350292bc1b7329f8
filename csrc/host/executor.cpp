// The `host` executor: csrc/anefast.h answered by the CPU. This file is the C seam, so no exception
// leaves it; memory_plan.h and ops/registry.h do the work.
#include <atomic>
#include <cctype>
#include <chrono>
#include <cinttypes>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "../anefast.h"
#include "../cpu/gemm/gemm.h"
#include "../cpu/pool.h"
#include "../cpu/threads.h"
#include "../fork.h"
#include "../half.h"
#include "../mil/parse.h"
#include "../mil/seam.h"
#include "../surfaces.h"
#include "blocked.h"
#include "chip/numbers.h"
#include "constants.h"
#include "fusion/fusion.h"
#include "ops/registry.h"
#include "part.h"
#include "chip/profile.h"
#include "shelf.h"
#include "surface.h"

// What the programs of a device share, and may outlive it.
struct Chip {
    anefast::host::Profile profile;
    std::atomic<int64_t> compiles{0}, loaded{0};
};

struct anefast_device {
    bool fuses = true; // false (the option groups=off): every operation by itself
    std::string description;
    std::shared_ptr<Chip> chip; // null: `exact`
};

// What is run: a function, and how.
struct Body {
    anefast::mil::Function function; // runnables refer to it
    anefast::host::MemoryPlan plan;
    std::vector<anefast::host::Runnable> runnables;
    std::unique_ptr<anefast::host::Arena> arena;
    std::vector<uintptr_t> bases;
};

struct anefast_program {
    std::mutex running;                                      // evaluations of one program share its bases
    std::atomic<int> generation{anefast::fork_generation()}; // of `running`
    bool fuses = true;
    Body whole;
    std::vector<anefast::host::Fusion> fusions; // of the whole, without what builds them, which is done
    std::shared_ptr<anefast::host::Blocks> blocks = std::make_shared<anefast::host::Blocks>();
    std::map<std::vector<int64_t>, std::unique_ptr<Body>> parts; // by extents; null where only the whole can be run
    std::vector<anefast_port> inputs, outputs;
    anefast::host::Constants constants;
    std::shared_ptr<Chip> chip;
    std::string tasks; // as `tasks` tells them
    ~anefast_program() {
        if (chip) chip->loaded--;
    }
};

namespace anefast::host {

namespace {

using mil::fail;

struct Crowded : Refusal {}; // it compiled, and there is no room to load it

// Runs body(), turning what it throws into a status: `otherwise`, where nothing better is known.
template <class F> anefast_status guarded(const char *where, anefast_status otherwise, anefast_error *error, F &&body) {
    try {
        return body();
    } catch (const Crowded &c) {
        return fail(error, ANEFAST_LOAD, c.message);
    } catch (const Refusal &r) {
        return fail(error, ANEFAST_COMPILE, r.message, r.where);
    } catch (const NoDescriptor &n) {
        return fail(error, ANEFAST_MIL, n.message, n.where);
    } catch (const std::bad_alloc &) {
        return set_error(
            error, ANEFAST_MEMORY,
            "[host %s] expected memory to work in, got none. Hint: a smaller batch, shorter sequences, or a "
            "machine with more.",
            where);
    } catch (const std::exception &e) {
        return set_error(error, otherwise, "[host %s] failed: %s", where, e.what());
    }
}

size_t workspace_bytes(const mil::Function &f, const mil::Operation &op) {
    const OpKernel *kernel = table().find(op.type);
    return kernel && kernel->workspace ? kernel->workspace(f, op) : 0;
}

bool fuses_by_default() {
    const char *wish = std::getenv("ANEFAST_GROUPS");
    return !(wish && std::string(wish) == "off");
}

// Every operation known, fusions found, everything in its place. Constants that no task reads lose their data.
MemoryPlan placed(mil::Function &f, bool fuse, std::vector<Fusion> *fusions, Constants *constants) {
    for (const mil::Operation &op : f.operations)
        if (!table().find(op.type))
            throw Refusal{op.where, "[host] " + op.type + " (" + op.label +
                                        "): expected an operation this executor runs. Hint: write it with "
                                        "arithmetic, reductions, conv, matmul and layout operations."};
    if (fuse) *fusions = find_fusions(f);
    *constants = keep_constants(f, *fusions);
    return plan_memory(f, *fusions, workspace_bytes);
}

anefast_status open(const char *options, anefast_device **device, anefast_error *error) {
    return guarded("open", ANEFAST_UNAVAILABLE, error, [&] {
        const char *p = options ? options : "";
        int threads = 0;
        auto chip = std::make_shared<Chip>();
        std::string wrong;
        bool described = false; // a name alone would be `exact` under another name
        bool fuses = fuses_by_default();
        while (*p) {
            while (std::isspace(static_cast<unsigned char>(*p))) p++;
            const char *end = p;
            while (*end && !std::isspace(static_cast<unsigned char>(*end))) end++;
            const std::string word(p, end);
            p = end;
            if (word.empty()) continue;
            const size_t equals = word.find('=');
            const std::string key = word.substr(0, equals);
            const std::string value = equals == std::string::npos ? "" : word.substr(equals + 1);
            if (key == "threads") {
                threads = threads_read(value.data(), value.size());
                if (!threads)
                    return fail(error, ANEFAST_INVALID,
                                "[host] expected threads to be 1 to " + std::to_string(MOST_THREADS) + ", got \"" +
                                    value + "\".");
            } else if (key == "profile") {
                chip->profile.name = value;
            } else if (set_option(&chip->profile, key, value, &wrong)) {
                described = true;
                if (!wrong.empty()) return fail(error, ANEFAST_INVALID, wrong);
            } else if (key == "groups") {
                if (value != "on" && value != "off")
                    return fail(error, ANEFAST_INVALID,
                                "[host] expected groups to be on or off, got \"" + value + "\".");
                fuses = value == "on";
            } else {
                const bool close = !key.empty() && (key[0] == 't' || key[0] == 'T');
                return fail(error, ANEFAST_INVALID,
                            "[host] expected the options threads=N, groups=on or off, profile=NAME and those of a "
                            "profile, got \"" +
                                word + "\". Hint: did you mean " + (close ? "threads=2" : "profile=exact") + "?");
            }
        }
        const std::string &name = chip->profile.name;
        const bool exact = name.empty() || name == "exact";
        if (exact == described)
            return fail(error, ANEFAST_INVALID,
                        "[host] expected profile=exact, or a chip's name and its options, got profile=" + name +
                            ". Hint: Device(\"host\", chip=\"m1\") writes them.");
        if (!exact && gemm_relaxed())
            return fail(error, ANEFAST_INVALID,
                        "[host] expected a chip's own products under profile=" + name + ", got " + gemm_isa() +
                            " ones. Hint: unset ANEFAST_ISA.");
        if (threads) threads_set(threads);
        auto d = std::make_unique<anefast_device>();
        d->fuses = fuses && exact; // a profile is defined operation by operation
        const int n = Pool::shared().threads();
        std::string as; // a profile's numbers are never a chip's own
        if (!exact) {
            as = " as " + name;
            d->chip = std::move(chip);
        }
        const std::string products = gemm_isa(), halves = half_isa();
        const std::string isa = products == halves ? products : products + " + " + halves;
        d->description = "host" + as + " (" + isa + ", " + std::to_string(n) + (n == 1 ? " thread)" : " threads)");
        *device = d.release();
        return ANEFAST_OK;
    });
}

void close(anefast_device *device) { delete device; }
const char *describe(const anefast_device *device) { return device->description.c_str(); }
const char *label(const anefast_device *device) { return device->chip ? "emulated" : "measured on the host"; }

// Rows of a port between a surface's 64-byte rows and packed memory.
Runnable repack(const PortLayout &port, Ref packed, Ref surface, bool into_surface) {
    const size_t rows = port.rows, bytes = port.row_bytes, stride = port.row_stride;
    return [=](const Frame &f) {
        uint8_t *p = f.at(packed), *s = f.at(surface);
        for (size_t i = 0; i < rows; i++) {
            if (into_surface) std::memcpy(s + i * stride, p + i * bytes, bytes);
            else std::memcpy(p + i * bytes, s + i * stride, bytes);
        }
    };
}

void pause(int64_t microseconds) {
    if (microseconds > 0) std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
}

// The chip's refusals, budgets and delays, then its copies in the function.
void take_on(const std::shared_ptr<Chip> &chip, mil::Function *f, anefast_program *program) {
    const Profile &p = chip->profile;
    const std::string said = "[" + p.name + ", emulated] ";
    admit(*f, p);
    if (p.compiles && ++chip->compiles > p.compiles)
        throw Refusal{{},
                      said +
                          "com.apple.appleneuralengine.compiler Code=1 \"_ANECompiler : ANECCompile() FAILED\": "
                          "expected at most " +
                          std::to_string(p.compiles) + " compiles" + p.cited("compiles") +
                          ". Hint: go on in a new process."};
    program->chip = chip;
    if (++chip->loaded > p.loaded && p.loaded)
        throw Crowded{{{},
                       said + "com.apple.appleneuralengine Code=53 \"Program load failed\": expected at most " +
                           std::to_string(p.loaded) + " programs loaded at once" + p.cited("loaded") +
                           ". Hint: unload some, or more layers per program."}};
    pause(p.compile_us * static_cast<int64_t>(f->operations.size()));
    add_copies(f, p);
}

Runnable runnable_of(Builder b, const Chip *chip) {
    if (chip) {
        b.fixed = chip->profile.fixed;
        b.away = chip->profile.away;
    }
    Runnable exact = table().at(b.op.type).build(b);
    return chip ? under(chip->profile, b, std::move(exact)) : exact;
}

// The runnables of a function whose values have places, and its arena.
void build(Body *body, const std::vector<Fusion> &fusions, const Chip *chip) {
    const MemoryPlan &plan = body->plan;
    const mil::Function &f = body->function;
    for (size_t i : plan.copied_in)
        body->runnables.push_back(
            repack(plan.inputs[i], plan.where[plan.inputs[i].value], {static_cast<uint32_t>(SURFACES + i), 0}, false));
    for (const auto [i, fusion] : plan.tasks)
        if (fusion >= 0) body->runnables.push_back(fusions[static_cast<size_t>(fusion)].build(plan, plan.workspace[i]));
        else if (!plan.is_view[i]) body->runnables.push_back(runnable_of(Builder(f, f.operations[i], plan, i), chip));
    for (size_t j : plan.copied_out)
        body->runnables.push_back(repack(plan.outputs[j], plan.where[plan.outputs[j].value],
                                         {static_cast<uint32_t>(SURFACES + plan.inputs.size() + j), 0}, true));
    body->arena = std::make_unique<Arena>(plan.arena_bytes);
    body->bases.assign(SURFACES + plan.inputs.size() + plan.outputs.size(), 0);
}

// What evaluates these extents, of inputs in the order of the ports: made once, and the whole where it must be.
Body *body_for(anefast_program *program, const int64_t *extents) {
    constexpr size_t PARTS_MOST = 64;
    Body &whole = program->whole;
    if (!extents || program->chip) return &whole;
    std::vector<int64_t> key;
    std::unordered_map<int32_t, std::vector<int64_t>> of; // by value
    for (const PortLayout &p : whole.plan.inputs)
        for (int32_t i = 0; i < p.c.rank; i++) {
            of[p.value].push_back(*extents);
            key.push_back(*extents++);
        }
    auto found = program->parts.find(key);
    if (found == program->parts.end()) {
        if (program->parts.size() >= PARTS_MOST) program->parts.clear();
        std::vector<int64_t> declared;
        for (int32_t v : whole.function.inputs) declared.insert(declared.end(), of[v].begin(), of[v].end());
        auto body = std::make_unique<Body>();
        std::vector<Fusion> fusions;
        bool can = take_part(whole.function, declared.data(), &body->function);
        if (can && program->fuses) fusions = find_fusions(body->function);
        can = can && constants_are_there(body->function, fusions);
        if (can) {
            body->plan = plan_memory(body->function, fusions, workspace_bytes, &whole.function);
            body->plan.blocks = program->blocks;
            build(body.get(), fusions, nullptr);
        }
        found = program->parts.emplace(std::move(key), can ? std::move(body) : nullptr).first;
    }
    return found->second ? found->second.get() : &whole;
}

anefast_status compile(anefast_device *device, const char *text, size_t text_bytes, const anefast_blob *blobs,
                       size_t n_blobs, anefast_program **result, anefast_error *error) {
    return guarded("compile", ANEFAST_COMPILE, error, [&] {
        auto program = std::make_unique<anefast_program>();
        // 1) parse, pick the function
        mil::Program parsed;
        mil::Error refused;
        if (!mil::parse({text, text_bytes}, mil::lent(blobs, n_blobs), false, &parsed, &refused))
            return fail(error, ANEFAST_MIL, refused.message, refused.where);
        mil::Function *f = nullptr;
        for (mil::Function &candidate : parsed.functions)
            if (!f || candidate.name == "main") f = &candidate;
        if (!f) return fail(error, ANEFAST_COMPILE, "[host] expected a function, got a program without one.");
        program->fuses = device->fuses;
        program->whole.function = std::move(*f);
        f = &program->whole.function;
        if (device->chip) take_on(device->chip, f, program.get());
        // 2) places, then what runs
        program->whole.plan = placed(*f, device->fuses, &program->fusions, &program->constants);
        build(&program->whole, program->fusions, program->chip.get());
        for (Fusion &fusion : program->fusions) fusion.build = nullptr; // it holds what its runnable has a copy of
        // 3) the ports
        const MemoryPlan &plan = program->whole.plan;
        for (bool out : {false, true})
            for (const PortLayout &p : out ? plan.outputs : plan.inputs) {
                anefast_port c = p.c;
                c.name = p.name.c_str();
                c.dtype = p.dtype;
                (out ? program->outputs : program->inputs).push_back(c);
            }
        *result = program.release();
        return ANEFAST_OK;
    });
}

size_t inputs(const anefast_program *program, const anefast_port **ports) {
    *ports = program->inputs.data();
    return program->inputs.size();
}

size_t outputs(const anefast_program *program, const anefast_port **ports) {
    *ports = program->outputs.data();
    return program->outputs.size();
}

anefast_status tasks(anefast_program *program, const char **text, anefast_error *error) {
    return guarded("tasks", ANEFAST_INVALID, error, [&] {
        const Body &b = program->whole;
        if (program->tasks.empty()) program->tasks = tasks_of(b.function, b.plan, program->fusions);
        *text = program->tasks.c_str();
        return ANEFAST_OK;
    });
}

size_t program_bytes(const anefast_program *program) {
    return program->constants.bytes + program->whole.arena->bytes();
}
int was_cached(const anefast_program *) { return -1; }

anefast_status reload(anefast_program *, int *compiled, anefast_error *) { // this executor loses none
    *compiled = 0;
    return ANEFAST_OK;
}

anefast_status unload(anefast_program *program, anefast_error *) {
    delete program;
    return ANEFAST_OK;
}

anefast_status surface_create(anefast_device *, size_t bytes, anefast_surface **surface, anefast_error *error) {
    *surface = nullptr;
    if (bytes == 0) return surfaces_refuse_empty(error);
    *surface = make_surface(bytes);
    if (!*surface)
        return fail(error, ANEFAST_MEMORY,
                    "[surface] expected memory for " + std::to_string(bytes) +
                        " bytes, got none. Hint: a smaller batch, shorter sequences, or a machine with more.");
    return ANEFAST_OK;
}

void surface_release(anefast_surface *surface) { free_surface(surface); }
size_t surface_bytes(const anefast_surface *surface) { return surface->bytes; }

anefast_status surface_lock(anefast_surface *surface, int read_only, void **base, anefast_error *error) {
    if (!surface) return surfaces_refuse_null(error);
    lock_surface(surface, read_only != 0);
    *base = surface->base;
    return ANEFAST_OK;
}

anefast_status surface_unlock(anefast_surface *surface, int read_only, anefast_error *error) {
    if (surface && unlock_surface(surface, read_only != 0)) return ANEFAST_OK;
    return surfaces_refuse_unlock(read_only, error);
}

// In a child of a fork, an evaluation of the parent's keeps `running` for ever.
void renew(anefast_program *program) {
    const int now = fork_generation();
    if (program->generation == now) return;
    static auto *one = new ForkMutex;
    std::lock_guard<std::mutex> held(*one);
    if (program->generation != now) new (&program->running) std::mutex;
    program->generation = now;
}

anefast_status evaluate_part(anefast_program *program, const int64_t *extents, anefast_surface *const *in, size_t n_in,
                             anefast_surface *const *out, size_t n_out, anefast_error *error) {
    return guarded("evaluate", ANEFAST_EVALUATE, error, [&] {
        const std::vector<anefast_port> &inputs = program->inputs, &outputs = program->outputs;
        anefast_status status = surfaces_check("input", inputs.data(), inputs.size(), in, n_in, surface_bytes, error);
        if (status == ANEFAST_OK)
            status = surfaces_check("output", outputs.data(), outputs.size(), out, n_out, surface_bytes, error);
        if (status != ANEFAST_OK) return status;
        renew(program);
        std::lock_guard<std::mutex> held(program->running);
        size_t which;
        bool is_output;
        if (const char *why = acquire(in, n_in, out, n_out, &which, &is_output))
            return surfaces_refuse(is_output ? "output" : "input", &(is_output ? outputs : inputs)[which], why, error);
        struct Release {
            anefast_surface *const *in, *const *out;
            size_t n_in, n_out;
            ~Release() { release(in, n_in, out, n_out); }
        } at_end{in, out, n_in, n_out};
        Body *const body = body_for(program, extents);
        const Arena::Lent arena(*body->arena);
        body->bases[ARENA] = reinterpret_cast<uintptr_t>(arena.data());
        for (size_t i = 0; i < n_in; i++) body->bases[SURFACES + i] = reinterpret_cast<uintptr_t>(in[i]->base);
        for (size_t j = 0; j < n_out; j++) body->bases[SURFACES + n_in + j] = reinterpret_cast<uintptr_t>(out[j]->base);
        if (program->chip) pause(program->chip->profile.dispatch_us);
        const Frame frame{body->bases.data()};
        for (const Runnable &run : body->runnables) run(frame);
        return ANEFAST_OK;
    });
}

anefast_status evaluate(anefast_program *program, anefast_surface *const *in, size_t n_in, anefast_surface *const *out,
                        size_t n_out, anefast_error *error) {
    return evaluate_part(program, nullptr, in, n_in, out, n_out, error);
}

int takes_parts(const anefast_device *device) { return !device->chip; }

const anefast_executor HOST = {
    "host",        open,          close,          describe, label,   compile,        inputs,
    outputs,       program_bytes, was_cached,     reload,   unload,  surface_create, surface_release,
    surface_bytes, surface_lock,  surface_unlock, evaluate, nullptr, takes_parts,    evaluate_part,
    tasks,         nullptr,       nullptr,        nullptr,
};

} // namespace

size_t scratch_bytes(mil::Function &f) {
    std::vector<Fusion> fusions;
    Constants none;
    return rounded_to_pages(placed(f, fuses_by_default(), &fusions, &none).arena_bytes);
}

} // namespace anefast::host

const anefast_executor *anefast_host_executor(void) { return &anefast::host::HOST; }
