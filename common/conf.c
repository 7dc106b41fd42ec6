/*
 * conf.c: libyaml's document tree (a mark on every node) walked by a table of keys. YAML decides only what is a
 * mapping, a list and a text; every text is then read by the rules of conf.h, so `5s`, `010`, `yes` and `~` mean what
 * is written there and never what a YAML library takes them for. Anchors are refused (a node that is met twice), as are
 * tags, a second document and a file above CONF_FILE_MAX.
 *
 * A target struct is filled in full or, after an error, holds nothing to free.
 */
#include "common/conf.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "common/address.h"
#include "common/text.h"
#include "lockstep/ids.h"

#define CONF_FILE_MAX (1u << 20)
#define CONF_DEPTH_MAX 6u
#define CONF_ITEMS_MAX 1000u /* entries of one mapping or list */
#define CONF_PATH_MAX 256u

struct loader {
    const char *name; /* of the file, for errors */
    const struct conf_key *keys;
    size_t count;
    char *target;
    bool *seen; /* by key: given in the file */
    yaml_document_t *document;
    bool *visited; /* by node */
    struct ls_error *err;
};

/* Where a value comes from, for errors: a line of the file, the environment, or a default. */
struct place {
    const char *name;
    unsigned line;
};

static const size_t type_size[] = {
    [CONF_STRING] = sizeof(char *),        [CONF_NAME] = sizeof(char *),         [CONF_BOOL] = sizeof(bool),
    [CONF_U32] = sizeof(uint32_t),         [CONF_U64] = sizeof(uint64_t),        [CONF_BYTES] = sizeof(uint64_t),
    [CONF_MS] = sizeof(uint64_t),          [CONF_PORT_ADDRESS] = sizeof(char *), [CONF_MAP] = sizeof(struct conf_map),
    [CONF_LIST] = sizeof(struct conf_list)};

static bool is_text_type(enum conf_type type) {
    return type == CONF_STRING || type == CONF_NAME || type == CONF_PORT_ADDRESS;
}

/* ------------------------------------------------------------------ errors */

#define SHOWN_MAX 64

/* "file:12: log.retention: what `value`"; the value is left out when it is NULL. */
static enum ls_status wrong(struct ls_error *err, const struct place *place, const char *key, const char *what,
                            const char *value) {
    char where[300], shown[SHOWN_MAX + 1] = "";
    if (place->line) {
        (void)snprintf(where, sizeof where, "%s:%u", place->name, place->line);
    } else {
        (void)snprintf(where, sizeof where, "%s", place->name);
    }
    if (!value) return ls_fail(err, LS_ERR_CONFIG, "%s: %s: %s", where, key, what);
    text_copy_line(shown, sizeof shown, value);
    return ls_fail(err, LS_ERR_CONFIG, "%s: %s: %s: `%s`%s", where, key, what, shown,
                   strlen(value) > SHOWN_MAX ? "..." : "");
}

/* max 0 means that there is no upper bound */
static enum ls_status out_of_range(struct ls_error *err, const struct place *place, const struct conf_key *key,
                                   const char *value) {
    const char *unit = key->type == CONF_BYTES ? " bytes" : key->type == CONF_MS ? " ms" : "";
    char what[128];
    if (key->max) {
        (void)snprintf(what, sizeof what, "must be %" PRIu64 " to %" PRIu64 "%s", key->min, key->max, unit);
    } else {
        (void)snprintf(what, sizeof what, "must be at least %" PRIu64 "%s", key->min, unit);
    }
    return wrong(err, place, key->path, what, value);
}

static enum ls_status no_memory(struct ls_error *err) {
    return ls_fail(err, LS_ERR_NOMEM, "out of memory while reading the configuration");
}

/* ------------------------------------------------------------------ values */

struct unit {
    const char *name;
    uint64_t factor;
};
static const struct unit no_units[] = {{"", 1}, {0, 0}};
static const struct unit byte_units[] = {
    {"", 1}, {"KiB", 1024}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {0, 0}};
static const struct unit time_units[] = {{"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000}, {0, 0}};

/* Digits without sign or leading zero, then a unit of the list. */
static bool parse_scaled(const char *text, const struct unit *units, uint64_t *ret_value) {
    size_t digits = strspn(text, "0123456789");
    uint64_t value = 0;
    if (digits == 0 || digits > 20 || (text[0] == '0' && digits > 1)) return false;
    for (size_t i = 0; i < digits; i++) {
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(text[i] - '0'), &value))
            return false;
    }
    for (; units->name; units++) {
        if (strcmp(text + digits, units->name) != 0) continue;
        return !__builtin_mul_overflow(value, units->factor, ret_value);
    }
    return false;
}

static enum ls_status set_number(struct ls_error *err, const struct place *place, const struct conf_key *key,
                                 void *field, const char *value) {
    uint64_t number;
    const struct unit *units = no_units;
    const char *what = "must be a number";
    if (key->type == CONF_BYTES) {
        units = byte_units;
        what = "must be a number of bytes, with KiB, MiB or GiB if wanted";
    } else if (key->type == CONF_MS) {
        units = time_units;
        what = "must be a number with ms, s, min or h";
    }
    if (!parse_scaled(value, units, &number)) return wrong(err, place, key->path, what, value);
    if (number < key->min || (key->max && number > key->max)) return out_of_range(err, place, key, value);
    if (key->type == CONF_U32) {
        if (number > UINT32_MAX) return wrong(err, place, key->path, what, value);
        *(uint32_t *)field = (uint32_t)number;
    } else {
        *(uint64_t *)field = number;
    }
    return LS_OK;
}

static enum ls_status set_text(struct ls_error *err, const struct place *place, const struct conf_key *key,
                               char **field, const char *value) {
    char host[ADDRESS_HOST_MAX + 1], port[ADDRESS_PORT_MAX + 1];
    size_t length = strlen(value);
    if (!text_utf8_valid(value, length)) return wrong(err, place, key->path, "is not UTF-8", value);
    if (key->type == CONF_PORT_ADDRESS && address_split(value, host, port) != LS_OK) {
        return wrong(err, place, key->path, "must be host:port", value);
    }
    if (key->type == CONF_NAME && !ls_name_valid(value, key->max ? key->max : length)) {
        char what[128];
        (void)snprintf(what, sizeof what, "must be 1 to %" PRIu64 " letters, digits, '_' or '-'", key->max);
        return wrong(err, place, key->path, what, value);
    }
    if (key->type == CONF_STRING && length < key->min) return wrong(err, place, key->path, "is too short", value);
    if (key->type == CONF_STRING && key->max && length > key->max)
        return wrong(err, place, key->path, "is too long", value);
    char *copy = strdup(value);
    if (!copy) return no_memory(err);
    free(*field);
    *field = copy;
    return LS_OK;
}

static enum ls_status map_add(struct ls_error *err, const struct place *place, const struct conf_key *key,
                              struct conf_map *map, const char *name, const char *value) {
    for (size_t i = 0; i < map->count; i++) {
        if (strcmp(map->pairs[i].key, name) == 0) return wrong(err, place, key->path, "repeated key", name);
    }
    if (map->count == CONF_ITEMS_MAX) return wrong(err, place, key->path, "has too many entries", NULL);
    if (!text_utf8_valid(value, strlen(value)) || !text_utf8_valid(name, strlen(name)))
        return wrong(err, place, key->path, "is not UTF-8", name);
    struct conf_pair *more = realloc(map->pairs, (map->count + 1) * sizeof *more);
    if (!more) return no_memory(err);
    map->pairs = more;
    struct conf_pair pair = {strdup(name), strdup(value), place->line};
    if (!pair.key || !pair.value) {
        free(pair.key);
        free(pair.value);
        return no_memory(err);
    }
    map->pairs[map->count++] = pair;
    return LS_OK;
}

static enum ls_status list_add(struct ls_error *err, const struct place *place, const struct conf_key *key,
                               struct conf_list *list, const char *value) {
    if (list->count == CONF_ITEMS_MAX) return wrong(err, place, key->path, "has too many entries", NULL);
    if (*value == '\0' || !text_utf8_valid(value, strlen(value)))
        return wrong(err, place, key->path, "has an entry that is empty or not UTF-8", value);
    char **more = realloc(list->items, (list->count + 1) * sizeof *more);
    if (!more) return no_memory(err);
    list->items = more;
    char *copy = strdup(value);
    if (!copy) return no_memory(err);
    list->items[list->count++] = copy;
    return LS_OK;
}

static void clear_field(const struct conf_key *key, char *target) {
    void *field = target + key->offset;
    if (is_text_type(key->type)) {
        free(*(char **)field);
    } else if (key->type == CONF_MAP) {
        struct conf_map *map = field;
        for (size_t i = 0; i < map->count; i++) {
            free(map->pairs[i].key);
            free(map->pairs[i].value);
        }
        free(map->pairs);
    } else if (key->type == CONF_LIST) {
        struct conf_list *list = field;
        for (size_t i = 0; i < list->count; i++) free(list->items[i]);
        free(list->items);
    }
    memset(field, 0, type_size[key->type]);
}

/* "a,b" or "checkout.role=x,pay.role=y": how a default or the environment says a list or a map. Replaces what was
 * there. */
static enum ls_status set_collection(struct ls_error *err, const struct place *place, const struct conf_key *key,
                                     char *target, const char *value) {
    clear_field(key, target);
    char *copy = strdup(value), *rest = copy;
    if (!copy) return no_memory(err);
    enum ls_status status = LS_OK;
    for (char *item; status == LS_OK && *value && (item = strsep(&rest, ",")) != NULL;) {
        if (key->type == CONF_LIST) {
            status = list_add(err, place, key, (struct conf_list *)(void *)(target + key->offset), item);
            continue;
        }
        char *equals = strchr(item, '=');
        if (!equals || equals == item) {
            status = wrong(err, place, key->path, "must be a list of name=value, with commas between", item);
        } else {
            *equals = '\0';
            status = map_add(err, place, key, (struct conf_map *)(void *)(target + key->offset), item, equals + 1);
        }
    }
    free(copy);
    return status;
}

/* One text for one key, whatever its source. */
static enum ls_status set_value(struct ls_error *err, const struct place *place, const struct conf_key *key,
                                char *target, const char *value) {
    void *field = target + key->offset;
    switch (key->type) {
    case CONF_STRING:
    case CONF_NAME:
    case CONF_PORT_ADDRESS:
        return set_text(err, place, key, field, value);
    case CONF_BOOL:
        if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
            return wrong(err, place, key->path, "must be true or false", value);
        *(bool *)field = value[0] == 't';
        return LS_OK;
    case CONF_U32:
    case CONF_U64:
    case CONF_BYTES:
    case CONF_MS:
        return set_number(err, place, key, field, value);
    case CONF_MAP:
    case CONF_LIST:
        return set_collection(err, place, key, target, value);
    }
    assert(false && "a type of conf_type");
    return LS_ERR_BUG;
}

/* ------------------------------------------------------------------ the document */

static struct place place_of(const struct loader *loader, const yaml_node_t *node) {
    return (struct place){loader->name, (unsigned)node->start_mark.line + 1};
}

/* The text of a scalar, checked; NULL with the error set for anything else. */
static const char *scalar_text(struct loader *loader, const yaml_node_t *node, const char *path,
                               enum ls_status *ret_status) {
    struct place place = place_of(loader, node);
    if (node->type != YAML_SCALAR_NODE) {
        *ret_status = wrong(loader->err, &place, path, "must be a single value", NULL);
        return NULL;
    }
    const char *text = (const char *)node->data.scalar.value;
    if (strlen(text) != node->data.scalar.length) {
        *ret_status = wrong(loader->err, &place, path, "holds a NUL byte", NULL);
        return NULL;
    }
    bool plain = node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (plain && (*text == '\0' || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0)) {
        *ret_status = wrong(loader->err, &place, path, "has no value", NULL);
        return NULL;
    }
    return text;
}

/* The node of an item. NULL with the error set when it was met before (an alias) or bears a tag of its own. */
static const yaml_node_t *visit(struct loader *loader, int index, const char *path, enum ls_status *ret_status) {
    const yaml_node_t *node = yaml_document_get_node(loader->document, index);
    assert(node);
    struct place place = place_of(loader, node);
    static const char *const own_tag[] = {
        [YAML_SCALAR_NODE] = YAML_STR_TAG, [YAML_SEQUENCE_NODE] = YAML_SEQ_TAG, [YAML_MAPPING_NODE] = YAML_MAP_TAG};
    assert(node->type != YAML_NO_NODE);
    if (loader->visited[index]) {
        *ret_status = wrong(loader->err, &place, path, "anchors and aliases are not supported", NULL);
        return NULL;
    }
    loader->visited[index] = true;
    if (!node->tag || strcmp((const char *)node->tag, own_tag[node->type]) != 0) {
        *ret_status = wrong(loader->err, &place, path, "tags are not supported", NULL);
        return NULL;
    }
    return node;
}

static enum ls_status read_list(struct loader *loader, const struct conf_key *key, const yaml_node_t *node) {
    struct place place = place_of(loader, node);
    if (node->type != YAML_SEQUENCE_NODE) return wrong(loader->err, &place, key->path, "must be a list", NULL);
    clear_field(key, loader->target);
    for (const yaml_node_item_t *item = node->data.sequence.items.start; item < node->data.sequence.items.top; item++) {
        enum ls_status status = LS_OK;
        const yaml_node_t *entry = visit(loader, *item, key->path, &status);
        const char *text = entry ? scalar_text(loader, entry, key->path, &status) : NULL;
        if (!text) return status;
        place = place_of(loader, entry);
        status = list_add(loader->err, &place, key, (struct conf_list *)(void *)(loader->target + key->offset), text);
        if (status != LS_OK) return status;
    }
    return LS_OK;
}

/* The key of a mapping's entry: a plain word, so that paths stay readable, or a lone "*" ("all others", in a map of
 * free keys). */
static const char *entry_key(struct loader *loader, const yaml_node_pair_t *pair, const char *path,
                             struct place *ret_place, enum ls_status *ret_status) {
    const yaml_node_t *node = visit(loader, pair->key, path, ret_status);
    if (!node) return NULL;
    *ret_place = place_of(loader, node);
    const char *text = scalar_text(loader, node, *path ? path : "top level", ret_status);
    if (!text) return NULL;
    bool others = *path && strcmp(text, "*") == 0;
    if (!others && (strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-/") != strlen(text) ||
                    *text == '\0')) {
        *ret_status = wrong(loader->err, ret_place, *path ? path : "top level",
                            "key must be letters, digits, '_', '-' or '/'", text);
        return NULL;
    }
    return text;
}

static enum ls_status join(struct loader *loader, const struct place *place, const char *path, const char *name,
                           char joined[CONF_PATH_MAX]) {
    int n = snprintf(joined, CONF_PATH_MAX, "%s%s%s", path, *path ? "." : "", name);
    if (n < 0 || (unsigned)n >= CONF_PATH_MAX)
        return wrong(loader->err, place, *path ? path : "top level", "key is too long", name);
    return LS_OK;
}

/* A free map, one or two levels deep; `prefix` is "" or "checkout". */
static enum ls_status read_map(struct loader *loader, const struct conf_key *key, const yaml_node_t *node,
                               const char *prefix) {
    struct place place = place_of(loader, node);
    if (node->type != YAML_MAPPING_NODE) return wrong(loader->err, &place, key->path, "must be a mapping", NULL);
    for (const yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        char joined[CONF_PATH_MAX];
        enum ls_status status = LS_OK;
        const char *name = entry_key(loader, pair, key->path, &place, &status);
        if (!name) return status;
        status = join(loader, &place, prefix, name, joined);
        if (status != LS_OK) return status;
        const yaml_node_t *value = visit(loader, pair->value, key->path, &status);
        if (!value) return status;
        if (value->type == YAML_MAPPING_NODE && !*prefix) {
            status = read_map(loader, key, value, joined);
        } else {
            const char *text = scalar_text(loader, value, key->path, &status);
            if (text)
                status = map_add(loader->err, &place, key, (struct conf_map *)(void *)(loader->target + key->offset),
                                 joined, text);
        }
        if (status != LS_OK) return status;
    }
    return LS_OK;
}

static const struct conf_key *find_key(const struct loader *loader, const char *path, bool *ret_is_section) {
    size_t length = strlen(path);
    *ret_is_section = false;
    for (size_t i = 0; i < loader->count; i++) {
        if (strcmp(loader->keys[i].path, path) == 0) return &loader->keys[i];
        if (strncmp(loader->keys[i].path, path, length) == 0 && loader->keys[i].path[length] == '.')
            *ret_is_section = true;
    }
    return NULL;
}

static enum ls_status read_key(struct loader *loader, const struct conf_key *key, const struct place *place,
                               const yaml_node_t *value) {
    size_t index = (size_t)(key - loader->keys);
    if (loader->seen[index]) return wrong(loader->err, place, key->path, "is given twice", NULL);
    loader->seen[index] = true;
    if (key->type == CONF_LIST) return read_list(loader, key, value);
    if (key->type == CONF_MAP) {
        clear_field(key, loader->target);
        return read_map(loader, key, value, "");
    }
    enum ls_status status = LS_OK;
    const char *text = scalar_text(loader, value, key->path, &status);
    struct place at = place_of(loader, value);
    return text ? set_value(loader->err, &at, key, loader->target, text) : status;
}

/* A section of the table: the document itself (path "") or one that is named. */
static enum ls_status read_section(struct loader *loader, const yaml_node_t *node, const char *path, unsigned depth) {
    struct place place = place_of(loader, node);
    const char *shown = *path ? path : "top level";
    if (depth > CONF_DEPTH_MAX) return wrong(loader->err, &place, shown, "is nested too deep", NULL);
    /* A section whose keys are all commented out. */
    if (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0 &&
        node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
        return LS_OK;
    if (node->type != YAML_MAPPING_NODE) return wrong(loader->err, &place, shown, "must be a mapping", NULL);
    const char *names[CONF_ITEMS_MAX];
    size_t count = 0;
    for (const yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        char joined[CONF_PATH_MAX];
        bool is_section;
        enum ls_status status = LS_OK;
        const char *name = entry_key(loader, pair, path, &place, &status);
        if (!name) return status;
        for (size_t i = 0; i < count; i++) {
            if (strcmp(names[i], name) == 0) return wrong(loader->err, &place, shown, "repeated key", name);
        }
        if (count == CONF_ITEMS_MAX) return wrong(loader->err, &place, shown, "has too many entries", NULL);
        names[count++] = name;
        status = join(loader, &place, path, name, joined);
        if (status != LS_OK) return status;
        const yaml_node_t *value = visit(loader, pair->value, joined, &status);
        if (!value) return status;
        const struct conf_key *key = find_key(loader, joined, &is_section);
        if (key) {
            status = read_key(loader, key, &place, value);
        } else if (is_section) {
            status = read_section(loader, value, joined, depth + 1);
        } else {
            status = wrong(loader->err, &place, joined, "unknown key", NULL);
        }
        if (status != LS_OK) return status;
    }
    return LS_OK;
}

static enum ls_status parser_failed(const struct loader *loader, const yaml_parser_t *parser) {
    /* libyaml does not always say it when memory was short; everything else has a reason */
    if (parser->error == YAML_MEMORY_ERROR || parser->error == YAML_NO_ERROR) return no_memory(loader->err);
    struct place place = {loader->name, (unsigned)parser->problem_mark.line + 1};
    return wrong(loader->err, &place, "not YAML", parser->problem ? parser->problem : "cannot be read", NULL);
}

static enum ls_status read_document(struct loader *loader, yaml_parser_t *parser, yaml_document_t *document) {
    const yaml_node_t *root = yaml_document_get_root_node(document);
    if (!root) return LS_OK; /* an empty file: defaults */
    size_t nodes = (size_t)(document->nodes.top - document->nodes.start);
    loader->document = document;
    loader->visited = calloc(nodes + 1, sizeof *loader->visited);
    if (!loader->visited) return no_memory(loader->err);
    enum ls_status status = LS_OK;
    root = visit(loader, 1, "top level", &status);
    if (root) status = read_section(loader, root, "", 0);
    free(loader->visited);
    if (status != LS_OK) return status;

    yaml_document_t second;
    if (!yaml_parser_load(parser, &second)) return parser_failed(loader, parser);
    root = yaml_document_get_root_node(&second);
    if (root) {
        struct place place = place_of(loader, root);
        status = wrong(loader->err, &place, "top level", "a second document", NULL);
    }
    yaml_document_delete(&second);
    return status;
}

static enum ls_status read_text(struct loader *loader, const char *text, size_t length) {
    yaml_parser_t parser;
    yaml_document_t document;
    enum ls_status status;
    if (length > CONF_FILE_MAX)
        return ls_fail(loader->err, LS_ERR_CONFIG, "%s: larger than %u bytes", loader->name, CONF_FILE_MAX);
    if (!yaml_parser_initialize(&parser)) return no_memory(loader->err);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, length);
    if (yaml_parser_load(&parser, &document)) {
        status = read_document(loader, &parser, &document);
        loader->document = NULL;
        yaml_document_delete(&document);
    } else {
        status = parser_failed(loader, &parser);
    }
    yaml_parser_delete(&parser);
    return status;
}

/* ------------------------------------------------------------------ sources in their order */

static enum ls_status set_defaults(struct loader *loader) {
    static const struct place place = {"default", 0};
    for (size_t i = 0; i < loader->count; i++) {
        const struct conf_key *key = &loader->keys[i];
        if (!key->default_text) continue;
        enum ls_status status = set_value(loader->err, &place, key, loader->target, key->default_text);
        if (status != LS_OK) return status;
    }
    return LS_OK;
}

static enum ls_status read_environment(struct loader *loader) {
    for (size_t i = 0; i < loader->count; i++) {
        const struct conf_key *key = &loader->keys[i];
        char name[CONF_PATH_MAX + 16];
        int n = snprintf(name, sizeof name, "LOCKSTEP_%s", key->path);
        assert(n > 0 && (size_t)n < sizeof name);
        for (char *c = name; *c; c++) *c = *c == '.' || *c == '-' ? '_' : (char)toupper((unsigned char)*c);
        const char *value = getenv(name);
        if (!value) continue;
        struct place place = {name, 0};
        loader->seen[i] = true;
        enum ls_status status = set_value(loader->err, &place, key, loader->target, value);
        if (status != LS_OK) return status;
    }
    return LS_OK;
}

static enum ls_status check_required(struct loader *loader) {
    struct place place = {loader->name, 0};
    for (size_t i = 0; i < loader->count; i++) {
        if (loader->keys[i].required && !loader->seen[i])
            return wrong(loader->err, &place, loader->keys[i].path, "is required", NULL);
    }
    return LS_OK;
}

static void clear_target(const struct loader *loader) {
    for (size_t i = 0; i < loader->count; i++)
        memset(loader->target + loader->keys[i].offset, 0, type_size[loader->keys[i].type]);
}

static enum ls_status load(struct loader *loader, const char *text, size_t length, bool environment) {
    clear_target(loader);
    loader->seen = calloc(loader->count + 1, sizeof *loader->seen);
    if (!loader->seen) return no_memory(loader->err);
    enum ls_status status = set_defaults(loader);
    if (status == LS_OK && text) status = read_text(loader, text, length);
    if (status == LS_OK && environment) status = read_environment(loader);
    if (status == LS_OK) status = check_required(loader);
    if (status != LS_OK) conf_free(loader->keys, loader->count, loader->target);
    free(loader->seen);
    return status;
}

/* The whole file, at most one byte more than allowed (which read_text refuses). */
static enum ls_status slurp(const char *file, char **ret_text, size_t *ret_length, struct ls_error *err) {
    FILE *in = fopen(file, "rbe");
    if (!in && errno == ENOMEM) return no_memory(err);
    if (!in) return ls_fail(err, LS_ERR_CONFIG, "%s: cannot be opened: %s", file, strerror(errno));
    char *text = malloc(CONF_FILE_MAX + 1);
    if (!text) {
        (void)fclose(in);
        return no_memory(err);
    }
    size_t length = fread(text, 1, CONF_FILE_MAX + 1, in);
    int failed = ferror(in) ? errno : 0;
    (void)fclose(in);
    if (failed) {
        free(text);
        return ls_fail(err, LS_ERR_CONFIG, "%s: cannot be read: %s", file, strerror(failed));
    }
    *ret_text = text;
    *ret_length = length;
    return LS_OK;
}

enum ls_status conf_load(const char *file, const struct conf_key *keys, size_t count, void *target,
                         struct ls_error *err) {
    struct loader loader = {
        .name = file ? file : "environment", .keys = keys, .count = count, .target = target, .err = err};
    char *text = NULL;
    size_t length = 0;
    clear_target(&loader);
    if (file) {
        enum ls_status status = slurp(file, &text, &length, err);
        if (status != LS_OK) return status;
    }
    enum ls_status status = load(&loader, text, length, true);
    free(text);
    return status;
}

enum ls_status conf_parse(const char *text, size_t length, const char *name, const struct conf_key *keys, size_t count,
                          void *target, struct ls_error *err) {
    struct loader loader = {.name = name, .keys = keys, .count = count, .target = target, .err = err};
    return load(&loader, text, length, false);
}

void conf_free(const struct conf_key *keys, size_t count, void *target) {
    for (size_t i = 0; i < count; i++) clear_field(&keys[i], target);
}

/* ------------------------------------------------------------------ the sample */

/* A default as YAML that this module reads back as the same text. */
static void print_default(FILE *out, const struct conf_key *key) {
    const char *text = key->default_text ? key->default_text : "";
    if (key->type == CONF_LIST) {
        (void)fprintf(out, " [%s]", text);
    } else if (key->type == CONF_MAP) {
        (void)fprintf(out, " {}");
    } else if (is_text_type(key->type) && (strpbrk(text, "[]{}*&!|>%@`#,\"'") || strstr(text, ": "))) {
        (void)fprintf(out, " '%s'", text);
    } else if (*text) {
        (void)fprintf(out, " %s", text);
    }
}

void conf_print_sample(FILE *out, const struct conf_key *keys, size_t count) {
    char section[CONF_PATH_MAX] = "";
    for (size_t i = 0; i < count; i++) {
        const char *dot = strchr(keys[i].path, '.');
        size_t length = dot ? (size_t)(dot - keys[i].path) : 0;
        if (length != strlen(section) || strncmp(section, keys[i].path, length) != 0) {
            (void)snprintf(section, sizeof section, "%.*s", (int)length, keys[i].path);
            if (length) (void)fprintf(out, "\n%s:\n", section);
        }
        const char *indent = length ? "  " : "", *name = length ? dot + 1 : keys[i].path;
        (void)fprintf(out, "%s# %s%s\n", indent, keys[i].help ? keys[i].help : "",
                      keys[i].required ? " (required)" : "");
        (void)fprintf(out, "%s#%s:", indent, name);
        print_default(out, &keys[i]);
        (void)fputc('\n', out);
    }
}
