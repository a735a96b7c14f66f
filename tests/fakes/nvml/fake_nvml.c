/*
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 * Copyright (c) 2026, baremetal.llm contributors
 *
 * A stand-in for NVIDIA's libnvidia-ml.so.1: answers from the flat text file that FAKE_NVML_DESCRIPTION names, one
 * `key=value` a line, as fake_nvml.py writes it. Signatures, structures and constants are those which the binding
 * nvidia-ml-py passes. What the description does not hold is NVML_ERROR_NOT_SUPPORTED.
 *
 * Every entry point asks for errors first, in this order:
 *     error.nvmlInit                            for the start, which nothing else of these stops
 *     error.<function>, error.*                 for all GPUs and for functions of the system
 *     gpu.<n>.error.<function>, gpu.<n>.error.* for one GPU (`handle` stands for every way to get its handle)
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef unsigned int nvml_return;

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    ARGUMENT_VERSION_MISMATCH = 25,
    UNKNOWN = 999
};

enum { MAX_GPUS = 64, MAX_MIG = 16, KEY_SIZE = 128, UUID_SIZE = 96 };

/* ---- The description ------------------------------------------------------------------------------------------- */

struct entry {
    char *key;
    char *value;
};

static struct entry *entries;
static size_t entry_count;
static int initialized;

static int compare_entries(const void *left, const void *right)
{
    return strcmp(((const struct entry *)left)->key, ((const struct entry *)right)->key);
}

static void forget_description(void)
{
    for (size_t i = 0; i < entry_count; i++)
        free(entries[i].key); /* The value lies in the same block. */
    free(entries);
    entries = NULL;
    entry_count = 0;
}

static int read_description(void)
{
    const char *path = getenv("FAKE_NVML_DESCRIPTION");
    char line[4096];
    size_t capacity = 0;
    FILE *file;

    forget_description();
    if (path == NULL || (file = fopen(path, "r")) == NULL) {
        fprintf(stderr, "fake NVML: FAKE_NVML_DESCRIPTION names no readable file: %s\n", path ? path : "it is not set");
        return 0;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        char *equals;
        char *copy;

        line[strcspn(line, "\r\n")] = '\0';
        if (line[0] == '\0' || line[0] == '#')
            continue;
        if ((equals = strchr(line, '=')) == NULL) {
            fprintf(stderr, "fake NVML: %s: no '=' in: %s\n", path, line);
            fclose(file);
            return 0;
        }
        if (entry_count == capacity) {
            struct entry *grown = realloc(entries, (capacity = capacity ? 2 * capacity : 1024) * sizeof *entries);

            if (grown == NULL)
                abort();
            entries = grown;
        }
        if ((copy = strdup(line)) == NULL)
            abort();
        copy[equals - line] = '\0';
        entries[entry_count].key = copy;
        entries[entry_count].value = copy + (equals - line) + 1;
        entry_count++;
    }
    fclose(file);
    if (entry_count > 0)
        qsort(entries, entry_count, sizeof *entries, compare_entries);
    return 1;
}

__attribute__((format(printf, 1, 0))) static const char *lookup_list(const char *format, va_list arguments)
{
    char key[KEY_SIZE];
    struct entry wanted = {key, NULL};
    const struct entry *found;

    vsnprintf(key, sizeof key, format, arguments);
    if (entry_count == 0)
        return NULL;
    found = bsearch(&wanted, entries, entry_count, sizeof *entries, compare_entries);
    return found ? found->value : NULL;
}

__attribute__((format(printf, 1, 2))) static const char *lookup(const char *format, ...)
{
    const char *value;
    va_list arguments;

    va_start(arguments, format);
    value = lookup_list(format, arguments);
    va_end(arguments);
    return value;
}

static long long number(const char *value)
{
    return strtoll(value, NULL, 0);
}

/* ---- Handles --------------------------------------------------------------------------------------------------- */

/* What nvmlDevice_t points to. mig is -1 for a whole GPU, else the index of the MIG device in it. */
struct device {
    int gpu;
    int mig;
};

static struct device devices[MAX_GPUS][MAX_MIG + 1];

static struct device *handle_of(int gpu, int mig)
{
    struct device *device = &devices[gpu][mig + 1];

    device->gpu = gpu;
    device->mig = mig;
    return device;
}

static int valid(const struct device *device)
{
    const struct device *first = &devices[0][0];

    return device >= first && device < first + (size_t)MAX_GPUS * (MAX_MIG + 1);
}

static int gpu_count(void)
{
    const char *value = lookup("gpu_count");

    return value ? (int)number(value) : 0;
}

/* The value of a key of a device: of the whole GPU, or of the MIG device in it. */
__attribute__((format(printf, 2, 3))) static const char *of(const struct device *device, const char *format, ...)
{
    char key[KEY_SIZE];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(key, sizeof key, format, arguments);
    va_end(arguments);
    if (device->mig >= 0)
        return lookup("gpu.%d.mig.instances.%d.%s", device->gpu, device->mig, key);
    return lookup("gpu.%d.%s", device->gpu, key);
}

/* ---- Errors ---------------------------------------------------------------------------------------------------- */

static nvml_return system_error(const char *function)
{
    const char *value = lookup("error.%s", function);

    if (value == NULL)
        value = lookup("error.*");
    return value ? (nvml_return)number(value) : SUCCESS;
}

static nvml_return gpu_error(int gpu, const char *function)
{
    const char *value = lookup("gpu.%d.error.%s", gpu, function);

    if (value == NULL)
        value = lookup("gpu.%d.error.*", gpu);
    return value ? (nvml_return)number(value) : SUCCESS;
}

static nvml_return handle_error(int gpu, const char *function)
{
    const char *value = lookup("gpu.%d.error.handle", gpu);

    if (value == NULL)
        value = lookup("gpu.%d.error.%s", gpu, function);
    return value ? (nvml_return)number(value) : SUCCESS;
}

static nvml_return enter_system(const char *function)
{
    if (!initialized)
        return UNINITIALIZED;
    return system_error(function);
}

static nvml_return enter(const char *function, const struct device *device)
{
    nvml_return error = enter_system(function);

    if (error == SUCCESS && !valid(device))
        error = INVALID_ARGUMENT;
    if (error == SUCCESS)
        error = gpu_error(device->gpu, function);
    return error;
}

#define ENTER_SYSTEM()                                  \
    do {                                                \
        nvml_return error_ = enter_system(__func__);    \
        if (error_ != SUCCESS)                          \
            return error_;                              \
    } while (0)

#define ENTER(device)                                   \
    do {                                                \
        nvml_return error_ = enter(__func__, (device)); \
        if (error_ != SUCCESS)                          \
            return error_;                              \
    } while (0)

#define NEED(pointer)                \
    do {                             \
        if ((pointer) == NULL)       \
            return INVALID_ARGUMENT; \
    } while (0)

/* ---- Answers --------------------------------------------------------------------------------------------------- */

static nvml_return give_text(const char *value, char *buffer, unsigned int size)
{
    NEED(buffer);
    if (value == NULL)
        return NOT_SUPPORTED;
    if (strlen(value) + 1 > size)
        return INSUFFICIENT_SIZE;
    strcpy(buffer, value);
    return SUCCESS;
}

static nvml_return give_unsigned(const char *value, unsigned int *result)
{
    NEED(result);
    if (value == NULL)
        return NOT_SUPPORTED;
    *result = (unsigned int)number(value);
    return SUCCESS;
}

static nvml_return give_int(const char *value, int *result)
{
    NEED(result);
    if (value == NULL)
        return NOT_SUPPORTED;
    *result = (int)number(value);
    return SUCCESS;
}

static nvml_return give_long(const char *value, unsigned long long *result)
{
    NEED(result);
    if (value == NULL)
        return NOT_SUPPORTED;
    *result = (unsigned long long)number(value);
    return SUCCESS;
}

#define TEXT(name, key)                                                                  \
    EXPORT nvml_return name(const struct device *device, char *buffer, unsigned int size) \
    {                                                                                    \
        ENTER(device);                                                                   \
        return give_text(of(device, key), buffer, size);                                 \
    }

#define UNSIGNED(name, key)                                                     \
    EXPORT nvml_return name(const struct device *device, unsigned int *result)  \
    {                                                                           \
        ENTER(device);                                                          \
        return give_unsigned(of(device, key), result);                          \
    }

#define LONG(name, key)                                                              \
    EXPORT nvml_return name(const struct device *device, unsigned long long *result) \
    {                                                                                \
        ENTER(device);                                                               \
        return give_long(of(device, key), result);                                   \
    }

#define TWO_UNSIGNED(name, first_key, second_key)                                                             \
    EXPORT nvml_return name(const struct device *device, unsigned int *first, unsigned int *second)           \
    {                                                                                                         \
        nvml_return error;                                                                                    \
        ENTER(device);                                                                                        \
        error = give_unsigned(of(device, first_key), first);                                                  \
        return error != SUCCESS ? error : give_unsigned(of(device, second_key), second);                      \
    }

/* ---- The library and the system -------------------------------------------------------------------------------- */

EXPORT nvml_return nvmlInitWithFlags(unsigned int flags)
{
    const char *value;
    nvml_return error;

    (void)flags;
    if (!initialized && !read_description())
        return UNKNOWN;
    value = lookup("error.nvmlInit");
    error = value ? (nvml_return)number(value) : SUCCESS;
    if (error == SUCCESS)
        initialized++;
    return error;
}

EXPORT nvml_return nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

EXPORT nvml_return nvmlShutdown(void)
{
    if (!initialized)
        return UNINITIALIZED;
    initialized--;
    return SUCCESS;
}

EXPORT const char *nvmlErrorString(nvml_return result)
{
    static const char *const texts[] = {
        "Success",
        "Uninitialized",
        "Invalid Argument",
        "Not Supported",
        "Insufficient Permissions",
        "Already Initialized",
        "Not Found",
        "Insufficient Size",
        "Insufficient External Power",
        "Driver Not Loaded",
        "Timeout",
        "Interrupt Request Issue",
        "NVML Shared Library Not Found",
        "Function Not Found",
        "Corrupted infoROM",
        "GPU is lost",
        "GPU requires reset",
        "The operating system has blocked the request.",
        "Driver/library version mismatch",
        "In use by another client",
        "Insufficient Memory",
        "No data",
        "The requested vgpu operation is not available on target device, because ECC is enabled",
        "Insufficient Resources",
        "Frequency Not Supported",
        "Argument version mismatch",
        "Requested functionality has been deprecated",
        "Not Ready",
        "GPU not found",
        "Invalid State",
        "Reset type not supported",
    };

    return result < sizeof texts / sizeof texts[0] ? texts[result] : "Unknown Error";
}

/* The library's own version needs no driver: the real one answers it after nvmlInit failed, too. */
EXPORT nvml_return nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    if (entries == NULL && !read_description())
        return UNKNOWN;
    return give_text(lookup("driver.nvml_version"), version, length);
}

EXPORT nvml_return nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    nvml_return error;

    if (entries == NULL && !read_description())
        return UNKNOWN;
    error = system_error(__func__);
    return error != SUCCESS ? error : give_int(lookup("driver.cuda_version"), version);
}

EXPORT nvml_return nvmlSystemGetCudaDriverVersion(int *version)
{
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

EXPORT nvml_return nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    ENTER_SYSTEM();
    return give_text(lookup("driver.version"), version, length);
}

struct driver_branch {
    unsigned int version;
    char branch[80];
};

EXPORT nvml_return nvmlSystemGetDriverBranch(struct driver_branch *info, unsigned int length)
{
    ENTER_SYSTEM();
    NEED(info);
    if (info->version != 0x1000054)
        return ARGUMENT_VERSION_MISMATCH;
    return give_text(lookup("driver.branch"), info->branch, length < 80 ? length : 80);
}

EXPORT nvml_return nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
    const char *value;

    ENTER_SYSTEM();
    if ((value = lookup("process_name.%u", pid)) == NULL)
        return NOT_FOUND;
    return give_text(value, name, length);
}

/* ---- From a number, a UUID or an address to a handle ----------------------------------------------------------- */

EXPORT nvml_return nvmlDeviceGetCount_v2(unsigned int *count)
{
    ENTER_SYSTEM();
    NEED(count);
    *count = (unsigned int)gpu_count();
    return SUCCESS;
}

EXPORT nvml_return nvmlDeviceGetHandleByIndex_v2(unsigned int index, struct device **device)
{
    nvml_return error;

    ENTER_SYSTEM();
    if (device == NULL || index >= (unsigned int)gpu_count() || index >= MAX_GPUS)
        return INVALID_ARGUMENT;
    if ((error = handle_error((int)index, __func__)) != SUCCESS)
        return error;
    *device = handle_of((int)index, -1);
    return SUCCESS;
}

static nvml_return handle_by_uuid(const char *function, const char *uuid, struct device **device)
{
    for (int gpu = 0; gpu < gpu_count() && gpu < MAX_GPUS; gpu++) {
        for (int mig = -1; mig < MAX_MIG; mig++) {
            struct device *candidate = handle_of(gpu, mig);
            const char *value = of(candidate, "uuid");
            nvml_return error;

            if (value == NULL || strcmp(value, uuid) != 0)
                continue;
            if ((error = handle_error(gpu, function)) != SUCCESS)
                return error;
            *device = candidate;
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

EXPORT nvml_return nvmlDeviceGetHandleByUUID(const char *uuid, struct device **device)
{
    ENTER_SYSTEM();
    NEED(uuid);
    NEED(device);
    return handle_by_uuid(__func__, uuid, device);
}

struct versioned_uuid {
    unsigned int version;
    unsigned int type;
    char text[41];
};

EXPORT nvml_return nvmlDeviceGetHandleByUUIDV(const struct versioned_uuid *uuid, struct device **device)
{
    ENTER_SYSTEM();
    NEED(uuid);
    NEED(device);
    if (uuid->version != 0x1000034)
        return ARGUMENT_VERSION_MISMATCH;
    if (uuid->type != 1) /* Only the text form: nobody here asks for the binary one. */
        return NOT_SUPPORTED;
    return handle_by_uuid(__func__, uuid->text, device);
}

EXPORT nvml_return nvmlDeviceGetHandleBySerial(const char *serial, struct device **device)
{
    ENTER_SYSTEM();
    NEED(serial);
    NEED(device);
    for (int gpu = 0; gpu < gpu_count() && gpu < MAX_GPUS; gpu++) {
        const char *value = lookup("gpu.%d.serial", gpu);

        if (value != NULL && strcmp(value, serial) == 0) {
            nvml_return error = handle_error(gpu, __func__);

            if (error == SUCCESS)
                *device = handle_of(gpu, -1);
            return error;
        }
    }
    return NOT_FOUND;
}

struct address {
    unsigned int domain;
    unsigned int bus;
    unsigned int device;
};

static int parse_address(const char *text, struct address *address)
{
    return text != NULL && sscanf(text, "%x:%x:%x", &address->domain, &address->bus, &address->device) == 3;
}

EXPORT nvml_return nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, struct device **device)
{
    struct address wanted;

    ENTER_SYSTEM();
    NEED(device);
    if (!parse_address(bus_id, &wanted))
        return INVALID_ARGUMENT;
    for (int gpu = 0; gpu < gpu_count() && gpu < MAX_GPUS; gpu++) {
        struct address found;

        if (parse_address(lookup("gpu.%d.pci.address", gpu), &found) && found.domain == wanted.domain
            && found.bus == wanted.bus && found.device == wanted.device) {
            nvml_return error = handle_error(gpu, __func__);

            if (error == SUCCESS)
                *device = handle_of(gpu, -1);
            return error;
        }
    }
    return NOT_FOUND;
}

/* ---- What a GPU is --------------------------------------------------------------------------------------------- */

TEXT(nvmlDeviceGetName, "name")
TEXT(nvmlDeviceGetUUID, "uuid")
TEXT(nvmlDeviceGetSerial, "serial")
TEXT(nvmlDeviceGetBoardPartNumber, "board_part_number")
TEXT(nvmlDeviceGetVbiosVersion, "vbios_version")
TEXT(nvmlDeviceGetInforomImageVersion, "inforom_image_version")
UNSIGNED(nvmlDeviceGetBrand, "brand")
UNSIGNED(nvmlDeviceGetArchitecture, "architecture")
UNSIGNED(nvmlDeviceGetMinorNumber, "minor_number")
UNSIGNED(nvmlDeviceGetModuleId, "module_id")
UNSIGNED(nvmlDeviceGetComputeMode, "compute_mode")
UNSIGNED(nvmlDeviceGetPersistenceMode, "persistence")
UNSIGNED(nvmlDeviceGetDisplayActive, "display_active")
UNSIGNED(nvmlDeviceGetPerformanceState, "performance_state")

EXPORT nvml_return nvmlDeviceGetVirtualizationMode(const struct device *device, unsigned int *mode)
{
    ENTER(device);
    return give_unsigned(of(device, "virtualization_mode"), mode);
}

EXPORT nvml_return nvmlDeviceGetIndex(const struct device *device, unsigned int *index)
{
    ENTER(device);
    NEED(index);
    *index = (unsigned int)(device->mig >= 0 ? device->mig : device->gpu);
    return SUCCESS;
}

EXPORT nvml_return nvmlDeviceGetCudaComputeCapability(const struct device *device, int *major, int *minor)
{
    const char *value;

    ENTER(device);
    NEED(major);
    NEED(minor);
    /* A MIG device can do what its GPU can. */
    value = lookup("gpu.%d.compute_capability", device->gpu);
    return value != NULL && sscanf(value, "%d.%d", major, minor) == 2 ? SUCCESS : NOT_SUPPORTED;
}

/* Without a size: the buffer is NVML_GSP_FIRMWARE_VERSION_BUF_SIZE long. */
EXPORT nvml_return nvmlDeviceGetGspFirmwareVersion(const struct device *device, char *version)
{
    ENTER(device);
    return give_text(of(device, "gsp.version"), version, 0x40);
}

TWO_UNSIGNED(nvmlDeviceGetGspFirmwareMode, "gsp.enabled", "gsp.default")

struct pci_info {
    char bus_id_legacy[16];
    unsigned int domain;
    unsigned int bus;
    unsigned int device;
    unsigned int pci_device_id;
    unsigned int pci_subsystem_id;
    char bus_id[32];
};

/* NVML keeps the vendor in the low half: 10de:2330 is 0x233010DE. */
static unsigned int pci_id(const char *text)
{
    unsigned int vendor;
    unsigned int device;

    return text != NULL && sscanf(text, "%x:%x", &vendor, &device) == 2 ? device << 16 | vendor : 0;
}

static nvml_return fill_pci_info(const char *where, const char *id, const char *subsystem, struct pci_info *info)
{
    struct address address;

    NEED(info);
    if (!parse_address(where, &address))
        return NOT_SUPPORTED;
    memset(info, 0, sizeof *info);
    info->domain = address.domain;
    info->bus = address.bus;
    info->device = address.device;
    info->pci_device_id = pci_id(id);
    info->pci_subsystem_id = pci_id(subsystem);
    snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "%04X:%02X:%02X.0", address.domain & 0xffff,
             address.bus & 0xff, address.device & 0xff);
    snprintf(info->bus_id, sizeof info->bus_id, "%08X:%02X:%02X.0", address.domain, address.bus & 0xff,
             address.device & 0xff);
    return SUCCESS;
}

EXPORT nvml_return nvmlDeviceGetPciInfo_v3(const struct device *device, struct pci_info *info)
{
    ENTER(device);
    return fill_pci_info(of(device, "pci.address"), of(device, "pci.device"), of(device, "pci.subsystem"), info);
}

struct pci_info_ext {
    unsigned int version;
    unsigned int domain;
    unsigned int bus;
    unsigned int device;
    unsigned int pci_device_id;
    unsigned int pci_subsystem_id;
    unsigned int base_class;
    unsigned int sub_class;
    char bus_id[32];
};

EXPORT nvml_return nvmlDeviceGetPciInfoExt(const struct device *device, struct pci_info_ext *info)
{
    struct pci_info plain;
    const char *class;
    nvml_return error;

    ENTER(device);
    NEED(info);
    if (info->version != 0x1000040)
        return ARGUMENT_VERSION_MISMATCH;
    error = fill_pci_info(of(device, "pci.address"), of(device, "pci.device"), of(device, "pci.subsystem"), &plain);
    if (error != SUCCESS)
        return error;
    class = of(device, "pci.class");
    info->domain = plain.domain;
    info->bus = plain.bus;
    info->device = plain.device;
    info->pci_device_id = plain.pci_device_id;
    info->pci_subsystem_id = plain.pci_subsystem_id;
    info->base_class = class ? (unsigned int)strtoul(class, NULL, 16) >> 8 : 3;
    info->sub_class = class ? (unsigned int)strtoul(class, NULL, 16) & 0xff : 0;
    memcpy(info->bus_id, plain.bus_id, sizeof info->bus_id);
    return SUCCESS;
}

/* ---- Memory ---------------------------------------------------------------------------------------------------- */

struct memory {
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
};

struct memory_v2 {
    unsigned int version;
    unsigned long long total;
    unsigned long long reserved;
    unsigned long long free;
    unsigned long long used;
};

static nvml_return fill_memory(const struct device *device, struct memory_v2 *memory)
{
    const char *total = of(device, "memory.total_bytes");
    const char *reserved = of(device, "memory.reserved_bytes");
    const char *used = of(device, "memory.used_bytes");

    if (total == NULL)
        return NOT_SUPPORTED;
    memory->total = (unsigned long long)number(total);
    memory->reserved = reserved ? (unsigned long long)number(reserved) : 0;
    memory->used = used ? (unsigned long long)number(used) : 0;
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}

/* The old call knows no reserved memory and counts it as used. */
EXPORT nvml_return nvmlDeviceGetMemoryInfo(const struct device *device, struct memory *memory)
{
    struct memory_v2 full;
    nvml_return error;

    ENTER(device);
    NEED(memory);
    if ((error = fill_memory(device, &full)) != SUCCESS)
        return error;
    memory->total = full.total;
    memory->free = full.free;
    memory->used = full.used + full.reserved;
    return SUCCESS;
}

EXPORT nvml_return nvmlDeviceGetMemoryInfo_v2(const struct device *device, struct memory_v2 *memory)
{
    ENTER(device);
    NEED(memory);
    if (memory->version != 0x02000028)
        return ARGUMENT_VERSION_MISMATCH;
    return fill_memory(device, memory);
}

EXPORT nvml_return nvmlDeviceGetBAR1MemoryInfo(const struct device *device, struct memory *memory)
{
    const char *total;
    const char *used;

    ENTER(device);
    NEED(memory);
    if ((total = of(device, "bar1.total_bytes")) == NULL)
        return NOT_SUPPORTED;
    used = of(device, "bar1.used_bytes");
    memory->total = (unsigned long long)number(total);
    memory->used = used ? (unsigned long long)number(used) : 0;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

/* ---- Error correction, rows and pages -------------------------------------------------------------------------- */

TWO_UNSIGNED(nvmlDeviceGetEccMode, "ecc.enabled", "ecc.pending")
UNSIGNED(nvmlDeviceGetDefaultEccMode, "ecc.default")
UNSIGNED(nvmlDeviceGetRetiredPagesPendingStatus, "retired_pages.pending")

/* Counts exist only while ECC is on. */
static const char *ecc_count(const struct device *device, unsigned int error_type, unsigned int counter_type)
{
    const char *enabled = of(device, "ecc.enabled");

    if (enabled == NULL || number(enabled) == 0)
        return NULL;
    return of(device, "ecc.%s_%s", error_type ? "uncorrected" : "corrected", counter_type ? "aggregate" : "volatile");
}

EXPORT nvml_return nvmlDeviceGetTotalEccErrors(const struct device *device, unsigned int error_type,
                                               unsigned int counter_type, unsigned long long *count)
{
    ENTER(device);
    if (error_type > 1 || counter_type > 1)
        return INVALID_ARGUMENT;
    return give_long(ecc_count(device, error_type, counter_type), count);
}

/* Where the errors happened: ecc.<type>_<counter>_<location>, by default all of them in the device's memory. */
EXPORT nvml_return nvmlDeviceGetMemoryErrorCounter(const struct device *device, unsigned int error_type,
                                                   unsigned int counter_type, unsigned int location,
                                                   unsigned long long *count)
{
    static const char *const locations[] = {"l1_cache",    "l2_cache", "device_memory", "register_file",
                                            "texture",     "texture_shared", "cbu",     "sram"};
    const char *total;
    const char *here;

    ENTER(device);
    if (error_type > 1 || counter_type > 1 || location >= sizeof locations / sizeof locations[0])
        return INVALID_ARGUMENT;
    if ((total = ecc_count(device, error_type, counter_type)) == NULL)
        return NOT_SUPPORTED;
    here = of(device, "ecc.%s_%s_%s", error_type ? "uncorrected" : "corrected",
              counter_type ? "aggregate" : "volatile", locations[location]);
    if (here == NULL)
        here = location == 2 ? total : "0";
    return give_long(here, count);
}

EXPORT nvml_return nvmlDeviceGetRemappedRows(const struct device *device, unsigned int *correctable,
                                             unsigned int *uncorrectable, unsigned int *pending, unsigned int *failed)
{
    nvml_return error;

    ENTER(device);
    error = give_unsigned(of(device, "remapped_rows.correctable"), correctable);
    if (error == SUCCESS)
        error = give_unsigned(of(device, "remapped_rows.uncorrectable"), uncorrectable);
    if (error == SUCCESS)
        error = give_unsigned(of(device, "remapped_rows.pending"), pending);
    if (error == SUCCESS)
        error = give_unsigned(of(device, "remapped_rows.failed"), failed);
    return error;
}

struct remapped_rows_v2 {
    unsigned int correctable_active;
    unsigned int correctable_inactive;
    unsigned int uncorrectable_active;
    unsigned int uncorrectable_inactive;
    unsigned int pending;
    unsigned int failed;
};

EXPORT nvml_return nvmlDeviceGetRemappedRows_v2(const struct device *device, struct remapped_rows_v2 *rows)
{
    nvml_return error;

    ENTER(device);
    NEED(rows);
    memset(rows, 0, sizeof *rows);
    error = give_unsigned(of(device, "remapped_rows.correctable"), &rows->correctable_active);
    if (error == SUCCESS)
        error = give_unsigned(of(device, "remapped_rows.uncorrectable"), &rows->uncorrectable_active);
    if (error == SUCCESS)
        error = give_unsigned(of(device, "remapped_rows.pending"), &rows->pending);
    if (error == SUCCESS)
        error = give_unsigned(of(device, "remapped_rows.failed"), &rows->failed);
    return error;
}

struct row_remapper_histogram {
    unsigned int max;
    unsigned int high;
    unsigned int partial;
    unsigned int low;
    unsigned int none;
};

EXPORT nvml_return nvmlDeviceGetRowRemapperHistogram(const struct device *device,
                                                     struct row_remapper_histogram *histogram)
{
    static const char *const names[] = {"max", "high", "partial", "low", "none"};
    unsigned int values[5] = {0};

    ENTER(device);
    NEED(histogram);
    for (int i = 0; i < 5; i++) {
        nvml_return error = give_unsigned(of(device, "remapped_rows.histogram.%s", names[i]), &values[i]);

        if (error != SUCCESS)
            return error;
    }
    memcpy(histogram, values, sizeof values);
    return SUCCESS;
}

static nvml_return retired_pages(const struct device *device, unsigned int cause, unsigned int *count,
                                 unsigned long long *addresses, unsigned long long *times)
{
    const char *value;
    unsigned int pages;

    NEED(count);
    if (cause > 1)
        return INVALID_ARGUMENT;
    if ((value = of(device, "retired_pages.%s", cause == 0 ? "single_bit" : "double_bit")) == NULL)
        return NOT_SUPPORTED;
    pages = (unsigned int)number(value);
    if (*count < pages || (addresses == NULL && pages > 0)) {
        *count = pages;
        return INSUFFICIENT_SIZE;
    }
    for (unsigned int i = 0; i < pages; i++) {
        /* The description holds how many there are; nobody asks which. */
        addresses[i] = 0x100000ull + i;
        if (times != NULL)
            times[i] = 0;
    }
    *count = pages;
    return SUCCESS;
}

EXPORT nvml_return nvmlDeviceGetRetiredPages(const struct device *device, unsigned int cause, unsigned int *count,
                                             unsigned long long *addresses)
{
    ENTER(device);
    return retired_pages(device, cause, count, addresses, NULL);
}

EXPORT nvml_return nvmlDeviceGetRetiredPages_v2(const struct device *device, unsigned int cause, unsigned int *count,
                                                unsigned long long *addresses, unsigned long long *times)
{
    ENTER(device);
    return retired_pages(device, cause, count, addresses, times);
}

struct repair_status {
    unsigned int version;
    unsigned int channel_pending;
    unsigned int tpc_pending;
};

EXPORT nvml_return nvmlDeviceGetRepairStatus(const struct device *device, struct repair_status *status)
{
    nvml_return error;

    ENTER(device);
    NEED(status);
    if (status->version != 0x100000C)
        return ARGUMENT_VERSION_MISMATCH;
    error = give_unsigned(of(device, "repair.channel_pending"), &status->channel_pending);
    return error != SUCCESS ? error : give_unsigned(of(device, "repair.tpc_pending"), &status->tpc_pending);
}

struct sram_status {
    unsigned int version;
    unsigned long long counts[11];
    unsigned int threshold_exceeded;
};

EXPORT nvml_return nvmlDeviceGetSramEccErrorStatus(const struct device *device, struct sram_status *status)
{
    static const char *const names[] = {"aggregate_uncorrected_parity", "aggregate_uncorrected_secded",
                                        "aggregate_corrected",          "volatile_uncorrected_parity",
                                        "volatile_uncorrected_secded",  "volatile_corrected"};
    const char *exceeded;

    ENTER(device);
    NEED(status);
    if (status->version != 0x1000068)
        return ARGUMENT_VERSION_MISMATCH;
    if ((exceeded = of(device, "sram.threshold_exceeded")) == NULL)
        return NOT_SUPPORTED;
    memset(status->counts, 0, sizeof status->counts);
    for (int i = 0; i < 6; i++) {
        const char *value = of(device, "sram.%s", names[i]);

        status->counts[i] = value ? (unsigned long long)number(value) : 0;
    }
    status->threshold_exceeded = (unsigned int)number(exceeded);
    return SUCCESS;
}

/* ---- Power, clocks, temperature -------------------------------------------------------------------------------- */

UNSIGNED(nvmlDeviceGetPowerManagementLimit, "power.limit_milliwatts")
UNSIGNED(nvmlDeviceGetPowerManagementDefaultLimit, "power.default_milliwatts")
UNSIGNED(nvmlDeviceGetPowerUsage, "power.usage_milliwatts")
TWO_UNSIGNED(nvmlDeviceGetPowerManagementLimitConstraints, "power.minimum_milliwatts", "power.maximum_milliwatts")
LONG(nvmlDeviceGetCurrentClocksEventReasons, "clocks.event_reasons")
LONG(nvmlDeviceGetCurrentClocksThrottleReasons, "clocks.event_reasons")
LONG(nvmlDeviceGetSupportedClocksEventReasons, "clocks.supported_event_reasons")
LONG(nvmlDeviceGetSupportedClocksThrottleReasons, "clocks.supported_event_reasons")

EXPORT nvml_return nvmlDeviceGetEnforcedPowerLimit(const struct device *device, unsigned int *limit)
{
    const char *value;

    ENTER(device);
    if ((value = of(device, "power.enforced_milliwatts")) == NULL)
        value = of(device, "power.limit_milliwatts");
    return give_unsigned(value, limit);
}

static nvml_return clock_of(const struct device *device, const char *prefix, unsigned int type, unsigned int *clock)
{
    static const char *const names[] = {"graphics", "sm", "memory", "video"};

    if (type >= sizeof names / sizeof names[0])
        return INVALID_ARGUMENT;
    return give_unsigned(of(device, "clocks.%s%s_mhz", prefix, names[type]), clock);
}

EXPORT nvml_return nvmlDeviceGetClockInfo(const struct device *device, unsigned int type, unsigned int *clock)
{
    ENTER(device);
    return clock_of(device, "", type, clock);
}

EXPORT nvml_return nvmlDeviceGetMaxClockInfo(const struct device *device, unsigned int type, unsigned int *clock)
{
    ENTER(device);
    return clock_of(device, "maximum_", type, clock);
}

EXPORT nvml_return nvmlDeviceGetTemperature(const struct device *device, unsigned int sensor, unsigned int *result)
{
    ENTER(device);
    if (sensor != 0)
        return INVALID_ARGUMENT;
    return give_unsigned(of(device, "temperature.gpu_celsius"), result);
}

struct temperature {
    unsigned int version;
    unsigned int sensor;
    int temperature;
};

EXPORT nvml_return nvmlDeviceGetTemperatureV(const struct device *device, struct temperature *temperature)
{
    ENTER(device);
    NEED(temperature);
    if (temperature->version != 0x100000C)
        return ARGUMENT_VERSION_MISMATCH;
    if (temperature->sensor != 0)
        return INVALID_ARGUMENT;
    return give_int(of(device, "temperature.gpu_celsius"), &temperature->temperature);
}

EXPORT nvml_return nvmlDeviceGetTemperatureThreshold(const struct device *device, unsigned int type,
                                                     unsigned int *result)
{
    static const char *const names[] = {"shutdown",        "slowdown",         "memory_maximum",   "gpu_maximum",
                                        "acoustic_minimum", "acoustic_current", "acoustic_maximum", "gps_current"};

    ENTER(device);
    if (type >= sizeof names / sizeof names[0])
        return INVALID_ARGUMENT;
    return give_unsigned(of(device, "temperature.%s_celsius", names[type]), result);
}

struct margin_temperature {
    unsigned int version;
    int margin;
};

EXPORT nvml_return nvmlDeviceGetMarginTemperature(const struct device *device, struct margin_temperature *margin)
{
    ENTER(device);
    NEED(margin);
    if (margin->version != 0x1000008)
        return ARGUMENT_VERSION_MISMATCH;
    return give_int(of(device, "temperature.margin_celsius"), &margin->margin);
}

/* ---- PCI Express, CPUs and nodes near the GPU ------------------------------------------------------------------ */

UNSIGNED(nvmlDeviceGetCurrPcieLinkGeneration, "pcie.generation")
UNSIGNED(nvmlDeviceGetMaxPcieLinkGeneration, "pcie.generation_maximum")
UNSIGNED(nvmlDeviceGetGpuMaxPcieLinkGeneration, "pcie.generation_maximum_gpu")
UNSIGNED(nvmlDeviceGetCurrPcieLinkWidth, "pcie.width")
UNSIGNED(nvmlDeviceGetMaxPcieLinkWidth, "pcie.width_maximum")
UNSIGNED(nvmlDeviceGetPcieReplayCounter, "pcie.replay_count")
UNSIGNED(nvmlDeviceGetPcieSpeed, "pcie.speed_megatransfers")

EXPORT nvml_return nvmlDeviceGetNumaNodeId(const struct device *device, int *node)
{
    ENTER(device);
    return give_int(of(device, "numa_node_id"), node);
}

/* From the kernel's list form (`0-47,96-143`) to a set of bits. */
static nvml_return fill_set(const char *list, unsigned int size, unsigned long *set)
{
    if (set == NULL || size == 0)
        return INVALID_ARGUMENT;
    if (list == NULL)
        return NOT_SUPPORTED;
    memset(set, 0, size * sizeof *set);
    while (*list != '\0') {
        char *end;
        unsigned long first = strtoul(list, &end, 10);
        unsigned long last = first;

        if (end == list)
            return UNKNOWN;
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        for (unsigned long i = first; i <= last; i++) {
            if (i / (8 * sizeof *set) < size)
                set[i / (8 * sizeof *set)] |= 1ul << (i % (8 * sizeof *set));
        }
        list = *end == ',' ? end + 1 : end;
    }
    return SUCCESS;
}

EXPORT nvml_return nvmlDeviceGetCpuAffinity(const struct device *device, unsigned int size, unsigned long *set)
{
    ENTER(device);
    return fill_set(of(device, "cpu_affinity"), size, set);
}

EXPORT nvml_return nvmlDeviceGetCpuAffinityWithinScope(const struct device *device, unsigned int size,
                                                       unsigned long *set, unsigned int scope)
{
    ENTER(device);
    if (scope > 1)
        return INVALID_ARGUMENT;
    return fill_set(of(device, "cpu_affinity"), size, set);
}

EXPORT nvml_return nvmlDeviceGetMemoryAffinity(const struct device *device, unsigned int size, unsigned long *set,
                                               unsigned int scope)
{
    ENTER(device);
    if (scope > 1)
        return INVALID_ARGUMENT;
    return fill_set(of(device, "memory_affinity"), size, set);
}

/* ---- NVLink and the fabric ------------------------------------------------------------------------------------- */

static nvml_return check_link(const struct device *device, unsigned int link)
{
    const char *count = of(device, "nvlink_count");

    if (count == NULL || number(count) == 0)
        return NOT_SUPPORTED;
    return link < (unsigned int)number(count) ? SUCCESS : INVALID_ARGUMENT;
}

#define ENTER_LINK(device, link)                                \
    do {                                                        \
        nvml_return link_error_;                                \
        ENTER(device);                                          \
        link_error_ = check_link((device), (link));             \
        if (link_error_ != SUCCESS)                             \
            return link_error_;                                 \
    } while (0)

EXPORT nvml_return nvmlDeviceGetNvLinkState(const struct device *device, unsigned int link, unsigned int *active)
{
    ENTER_LINK(device, link);
    return give_unsigned(of(device, "nvlinks.%u.active", link), active);
}

EXPORT nvml_return nvmlDeviceGetNvLinkVersion(const struct device *device, unsigned int link, unsigned int *version)
{
    ENTER_LINK(device, link);
    return give_unsigned(of(device, "nvlinks.%u.version", link), version);
}

EXPORT nvml_return nvmlDeviceGetNvLinkRemoteDeviceType(const struct device *device, unsigned int link,
                                                       unsigned int *type)
{
    ENTER_LINK(device, link);
    return give_unsigned(of(device, "nvlinks.%u.remote_type", link), type);
}

EXPORT nvml_return nvmlDeviceGetNvLinkRemotePciInfo_v2(const struct device *device, unsigned int link,
                                                       struct pci_info *info)
{
    ENTER_LINK(device, link);
    return fill_pci_info(of(device, "nvlinks.%u.remote_pci_address", link),
                         of(device, "nvlinks.%u.remote_pci_device", link), NULL, info);
}

/* Capabilities of every link of a GPU alike: p2p, access to the host's memory, atomics, no SLI bridge, valid. */
EXPORT nvml_return nvmlDeviceGetNvLinkCapability(const struct device *device, unsigned int link,
                                                 unsigned int capability, unsigned int *result)
{
    ENTER_LINK(device, link);
    NEED(result);
    if (capability > 5)
        return INVALID_ARGUMENT;
    *result = capability != 4;
    return SUCCESS;
}

EXPORT nvml_return nvmlDeviceGetNvLinkErrorCounter(const struct device *device, unsigned int link,
                                                   unsigned int counter, unsigned long long *result)
{
    static const char *const names[] = {"replay", "recovery", "crc_flit", "crc_data", "ecc_data"};
    const char *architecture;
    const char *value;

    ENTER_LINK(device, link);
    if (counter >= sizeof names / sizeof names[0])
        return INVALID_ARGUMENT;
    /* Blackwell (10) and later no longer have these counters. */
    architecture = of(device, "architecture");
    if (architecture != NULL && number(architecture) >= 10)
        return NOT_SUPPORTED;
    value = of(device, "nvlinks.%u.%s_errors", link, names[counter]);
    return give_long(value ? value : "0", result);
}

static void fill_cluster_uuid(const char *text, unsigned char *uuid)
{
    memset(uuid, 0, 16);
    for (int digit = 0; text != NULL && *text != '\0' && digit < 32; text++) {
        char pair[2] = {*text, '\0'};

        if (!isxdigit((unsigned char)*text))
            continue;
        uuid[digit / 2] = (unsigned char)(uuid[digit / 2] << 4 | strtoul(pair, NULL, 16));
        digit++;
    }
}

struct fabric_info {
    unsigned char cluster_uuid[16];
    unsigned int status;
    unsigned int clique_id;
    unsigned int state;
};

struct fabric_info_versioned {
    unsigned int version;
    struct fabric_info info;
    unsigned int health_mask;
    unsigned char health_summary; /* Only in the third version, which is four bytes longer than the second. */
};

static unsigned int fabric_number(const struct device *device, const char *key)
{
    const char *value = of(device, "fabric.%s", key);

    return value ? (unsigned int)number(value) : 0;
}

static nvml_return fill_fabric_info(const struct device *device, struct fabric_info *info)
{
    if (of(device, "fabric.state") == NULL)
        return NOT_SUPPORTED;
    fill_cluster_uuid(of(device, "fabric.cluster_uuid"), info->cluster_uuid);
    info->status = fabric_number(device, "status");
    info->clique_id = fabric_number(device, "clique_id");
    info->state = fabric_number(device, "state");
    return SUCCESS;
}

EXPORT nvml_return nvmlDeviceGetGpuFabricInfo(const struct device *device, struct fabric_info *info)
{
    ENTER(device);
    NEED(info);
    return fill_fabric_info(device, info);
}

/* driver.fabric_info_version: the newest form of the structure that this driver knows. */
EXPORT nvml_return nvmlDeviceGetGpuFabricInfoV(const struct device *device, struct fabric_info_versioned *info)
{
    const char *newest;
    unsigned int version;
    nvml_return error;

    ENTER(device);
    NEED(info);
    newest = lookup("driver.fabric_info_version");
    if (info->version == 0x02000024)
        version = 2;
    else if (info->version == 0x03000028)
        version = 3;
    else
        return ARGUMENT_VERSION_MISMATCH;
    if (newest != NULL && version > (unsigned int)number(newest))
        return ARGUMENT_VERSION_MISMATCH;
    if ((error = fill_fabric_info(device, &info->info)) != SUCCESS)
        return error;
    info->health_mask = fabric_number(device, "health_mask");
    if (version >= 3)
        info->health_summary = (unsigned char)fabric_number(device, "health_summary");
    return SUCCESS;
}

struct fabric_clique {
    unsigned char type;
    unsigned int id;
};

struct fabric_info_v4 {
    unsigned char cluster_uuid[16];
    unsigned int status;
    struct fabric_clique cliques[64];
    unsigned int clique_count;
    unsigned char state;
    unsigned int health_mask;
    unsigned char health_summary;
};

EXPORT nvml_return nvmlDeviceGetGpuFabricInfo_v4(const struct device *device, struct fabric_info_v4 *info)
{
    struct fabric_info plain;
    nvml_return error;

    ENTER(device);
    NEED(info);
    if ((error = fill_fabric_info(device, &plain)) != SUCCESS)
        return error;
    memset(info, 0, sizeof *info);
    memcpy(info->cluster_uuid, plain.cluster_uuid, sizeof info->cluster_uuid);
    info->status = plain.status;
    info->cliques[0].id = plain.clique_id;
    info->clique_count = 1;
    info->state = (unsigned char)plain.state;
    info->health_mask = fabric_number(device, "health_mask");
    info->health_summary = (unsigned char)fabric_number(device, "health_summary");
    return SUCCESS;
}

/* ---- From GPU to GPU ------------------------------------------------------------------------------------------- */

static const char *pair_value(const struct device *first, const struct device *second, const char *key)
{
    int low = first->gpu < second->gpu ? first->gpu : second->gpu;
    int high = first->gpu < second->gpu ? second->gpu : first->gpu;

    return lookup("p2p.%d-%d.%s", low, high, key);
}

EXPORT nvml_return nvmlDeviceGetP2PStatus(const struct device *first, const struct device *second, unsigned int index,
                                          unsigned int *status)
{
    static const char *const names[] = {"read", "write", "nvlink", "atomics", "pci"};

    ENTER(first);
    ENTER(second);
    if (index >= sizeof names / sizeof names[0] || first->gpu == second->gpu)
        return INVALID_ARGUMENT;
    return give_unsigned(pair_value(first, second, names[index]), status);
}

EXPORT nvml_return nvmlDeviceGetTopologyCommonAncestor(const struct device *first, const struct device *second,
                                                       unsigned int *level)
{
    ENTER(first);
    ENTER(second);
    if (first->gpu == second->gpu)
        return INVALID_ARGUMENT;
    return give_unsigned(pair_value(first, second, "topology"), level);
}

EXPORT nvml_return nvmlDeviceOnSameBoard(const struct device *first, const struct device *second, int *same)
{
    ENTER(first);
    ENTER(second);
    NEED(same);
    *same = first->gpu == second->gpu;
    return SUCCESS;
}

/* ---- MIG ------------------------------------------------------------------------------------------------------- */

TWO_UNSIGNED(nvmlDeviceGetMigMode, "mig.enabled", "mig.pending")

EXPORT nvml_return nvmlDeviceIsMigDeviceHandle(const struct device *device, unsigned int *is_mig)
{
    ENTER(device);
    NEED(is_mig);
    *is_mig = device->mig >= 0;
    return SUCCESS;
}

EXPORT nvml_return nvmlDeviceGetMaxMigDeviceCount(const struct device *device, unsigned int *count)
{
    const char *enabled;
    const char *maximum;

    ENTER(device);
    NEED(count);
    enabled = of(device, "mig.enabled");
    maximum = of(device, "mig.maximum");
    *count = enabled != NULL && number(enabled) != 0 ? (unsigned int)(maximum ? number(maximum) : 7) : 0;
    return SUCCESS;
}

EXPORT nvml_return nvmlDeviceGetMigDeviceHandleByIndex(const struct device *device, unsigned int index,
                                                       struct device **result)
{
    const char *enabled;

    ENTER(device);
    NEED(result);
    if ((enabled = of(device, "mig.enabled")) == NULL)
        return NOT_SUPPORTED;
    if (number(enabled) == 0 || index >= MAX_MIG
        || lookup("gpu.%d.mig.instances.%u.uuid", device->gpu, index) == NULL)
        return NOT_FOUND;
    *result = handle_of(device->gpu, (int)index);
    return SUCCESS;
}

EXPORT nvml_return nvmlDeviceGetDeviceHandleFromMigDeviceHandle(const struct device *device, struct device **result)
{
    ENTER(device);
    NEED(result);
    if (device->mig < 0)
        return INVALID_ARGUMENT;
    *result = handle_of(device->gpu, -1);
    return SUCCESS;
}

UNSIGNED(nvmlDeviceGetGpuInstanceId, "gpu_instance_id")
UNSIGNED(nvmlDeviceGetComputeInstanceId, "compute_instance_id")

struct device_attributes {
    unsigned int counts[8];
    unsigned long long memory_megabytes;
};

EXPORT nvml_return nvmlDeviceGetAttributes_v2(const struct device *device, struct device_attributes *attributes)
{
    static const char *const names[] = {"multiprocessors", "copy_engines", "decoders",   "encoders",
                                        "jpeg_engines",    "ofa_engines",  "gpu_slices", "compute_slices"};
    const char *memory;

    ENTER(device);
    NEED(attributes);
    if ((memory = of(device, "memory.total_bytes")) == NULL || of(device, "attributes.multiprocessors") == NULL)
        return NOT_SUPPORTED;
    for (int i = 0; i < 8; i++) {
        const char *value = of(device, "attributes.%s", names[i]);

        attributes->counts[i] = value ? (unsigned int)number(value) : 0;
    }
    attributes->memory_megabytes = (unsigned long long)number(memory) / 1048576;
    return SUCCESS;
}

/* ---- Processes ------------------------------------------------------------------------------------------------- */

struct process {
    unsigned int pid;
    unsigned long long used_memory;
    unsigned int gpu_instance_id;
    unsigned int compute_instance_id;
};

static nvml_return fill_processes(const struct device *device, const char *kind, unsigned int *count,
                                  struct process *processes)
{
    unsigned int running = 0;
    unsigned int room;

    NEED(count);
    room = *count;
    while (of(device, "%s.%u.pid", kind, running) != NULL)
        running++;
    *count = running;
    if (running > 0 && (processes == NULL || room < running))
        return INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < running; i++) {
        const char *used = of(device, "%s.%u.used_bytes", kind, i);
        const char *gpu_instance = of(device, "%s.%u.gpu_instance_id", kind, i);
        const char *compute_instance = of(device, "%s.%u.compute_instance_id", kind, i);

        processes[i].pid = (unsigned int)number(of(device, "%s.%u.pid", kind, i));
        /* All ones: not available. */
        processes[i].used_memory = used ? (unsigned long long)number(used) : ~0ull;
        processes[i].gpu_instance_id = gpu_instance ? (unsigned int)number(gpu_instance) : ~0u;
        processes[i].compute_instance_id = compute_instance ? (unsigned int)number(compute_instance) : ~0u;
    }
    return SUCCESS;
}

#define PROCESSES(name, kind)                                                                              \
    EXPORT nvml_return name(const struct device *device, unsigned int *count, struct process *processes)   \
    {                                                                                                      \
        ENTER(device);                                                                                     \
        return fill_processes(device, kind, count, processes);                                             \
    }

PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, "compute_processes")
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, "compute_processes")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics_processes")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics_processes")
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, "mps_processes")
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps_processes")

struct utilization {
    unsigned int gpu;
    unsigned int memory;
};

EXPORT nvml_return nvmlDeviceGetUtilizationRates(const struct device *device, struct utilization *rates)
{
    nvml_return error;

    ENTER(device);
    NEED(rates);
    error = give_unsigned(of(device, "utilization.gpu_percent"), &rates->gpu);
    return error != SUCCESS ? error : give_unsigned(of(device, "utilization.memory_percent"), &rates->memory);
}

/* ---- Field values ---------------------------------------------------------------------------------------------- */

struct field_value {
    unsigned int field;
    unsigned int scope;
    long long timestamp;
    long long latency;
    unsigned int type;
    nvml_return result;
    union {
        unsigned int number;
        unsigned long long long_number;
        int signed_number;
    } value;
};

enum { TYPE_UNSIGNED = 1, TYPE_LONG = 3, TYPE_SIGNED = 5 };

struct field {
    unsigned int id;
    unsigned int type;
    const char *key;
};

static const struct field fields[] = {
    {1, TYPE_UNSIGNED, "ecc.enabled"},
    {2, TYPE_UNSIGNED, "ecc.pending"},
    {3, TYPE_LONG, "ecc.corrected_volatile"},
    {4, TYPE_LONG, "ecc.uncorrected_volatile"},
    {5, TYPE_LONG, "ecc.corrected_aggregate"},
    {6, TYPE_LONG, "ecc.uncorrected_aggregate"},
    {29, TYPE_LONG, "retired_pages.single_bit"},
    {30, TYPE_LONG, "retired_pages.double_bit"},
    {31, TYPE_UNSIGNED, "retired_pages.pending"},
    {82, TYPE_UNSIGNED, "temperature.memory_celsius"},
    {90, TYPE_UNSIGNED, "nvlink_speed_megabytes"},
    {91, TYPE_UNSIGNED, "nvlink_count"},
    {94, TYPE_UNSIGNED, "pcie.replay_count"},
    {142, TYPE_UNSIGNED, "remapped_rows.correctable"},
    {143, TYPE_UNSIGNED, "remapped_rows.uncorrectable"},
    {144, TYPE_UNSIGNED, "remapped_rows.pending"},
    {145, TYPE_UNSIGNED, "remapped_rows.failed"},
    {147, TYPE_UNSIGNED, "nvswitch_link_count"},
    {185, TYPE_UNSIGNED, "power.usage_milliwatts"},
    {186, TYPE_UNSIGNED, "power.usage_milliwatts"},
    {187, TYPE_UNSIGNED, "power.minimum_milliwatts"},
    {188, TYPE_UNSIGNED, "power.maximum_milliwatts"},
    {189, TYPE_UNSIGNED, "power.default_milliwatts"},
    {190, TYPE_UNSIGNED, "power.limit_milliwatts"},
    {192, TYPE_UNSIGNED, "power.limit_milliwatts"},
    {193, TYPE_SIGNED, "temperature.shutdown_margin_celsius"},
    {194, TYPE_SIGNED, "temperature.slowdown_margin_celsius"},
    {195, TYPE_SIGNED, "temperature.memory_maximum_margin_celsius"},
    {196, TYPE_SIGNED, "temperature.gpu_maximum_margin_celsius"},
    {230, TYPE_UNSIGNED, "recovery_action"},
};

/* Fields of one link, which the scope names. */
static const struct field link_fields[] = {
    {164, TYPE_UNSIGNED, "speed_megabytes"},
    {165, TYPE_UNSIGNED, "active"},
    {166, TYPE_UNSIGNED, "version"},
};

static void fill_field(const struct device *device, struct field_value *value)
{
    const char *found = of(device, "field.%u.%u", value->field, value->scope);
    const char *error = of(device, "error.field.%u", value->field);
    unsigned int type = TYPE_LONG;

    if (found == NULL)
        found = of(device, "field.%u", value->field);
    for (size_t i = 0; found == NULL && i < sizeof fields / sizeof fields[0]; i++) {
        if (fields[i].id == value->field) {
            found = of(device, "%s", fields[i].key);
            type = fields[i].type;
        }
    }
    for (size_t i = 0; found == NULL && i < sizeof link_fields / sizeof link_fields[0]; i++) {
        if (link_fields[i].id == value->field) {
            found = of(device, "nvlinks.%u.%s", value->scope, link_fields[i].key);
            type = link_fields[i].type;
        }
    }
    value->timestamp = 0;
    value->latency = 0;
    value->value.long_number = 0;
    value->type = type;
    if (error != NULL)
        value->result = (nvml_return)number(error);
    else if (lookup("absent_field.%u", value->field) != NULL)
        value->result = INVALID_ARGUMENT; /* A number that came after this driver. */
    else
        value->result = found != NULL ? SUCCESS : NOT_SUPPORTED;
    if (value->result != SUCCESS)
        return;
    if (type == TYPE_LONG)
        value->value.long_number = (unsigned long long)number(found);
    else if (type == TYPE_SIGNED)
        value->value.signed_number = (int)number(found);
    else
        value->value.number = (unsigned int)number(found);
}

EXPORT nvml_return nvmlDeviceGetFieldValues(const struct device *device, int count, struct field_value *values)
{
    ENTER(device);
    if (values == NULL || count < 1)
        return INVALID_ARGUMENT;
    for (int i = 0; i < count; i++)
        fill_field(device, &values[i]);
    return SUCCESS;
}
