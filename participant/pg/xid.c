/*
 * xid.c: see xid.h.
 */
#include "participant/pg/xid.h"

#include <string.h>

uint64_t pg_full_xid(uint32_t xid, uint64_t xmax)
{
    uint64_t full = (xmax & ~(uint64_t)UINT32_MAX) | xid;
    if (full > xmax && full - xmax > (uint64_t)1 << 31)
        return full >> 32 != 0 ? full - ((uint64_t)1 << 32) : 0;
    if (full < xmax && xmax - full > (uint64_t)1 << 31)
        return full + ((uint64_t)1 << 32);
    return full;
}

bool pg_parse_u64(const char *text, uint64_t *ret_value)
{
    uint64_t value = 0;
    if (text == NULL || *text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        uint64_t digit = (uint64_t)(unsigned char)*text - '0';
        if (digit > 9 || value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *ret_value = value;
    return true;
}

/* At most `max` hex digits; moves *text behind them. */
static bool hex(const char **text, size_t max, uint32_t *ret_value)
{
    uint32_t value = 0;
    size_t n = 0;
    for (; n < max; n++) {
        char c = (*text)[n];
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = (uint32_t)(c - '0');
        else if (c >= 'A' && c <= 'F')
            digit = (uint32_t)(c - 'A') + 10;
        else
            break;
        value = value << 4 | digit;
    }
    *text += n;
    *ret_value = value;
    return n > 0;
}

static bool lsn_at(const char **text, uint64_t *ret_lsn)
{
    uint32_t high, low;
    if (!hex(text, 8, &high) || **text != '/')
        return false;
    ++*text;
    if (!hex(text, 8, &low))
        return false;
    *ret_lsn = (uint64_t)high << 32 | low;
    return true;
}

bool pg_parse_lsn(const char *text, uint64_t *ret_lsn)
{
    uint64_t lsn;
    if (text == NULL || !lsn_at(&text, &lsn) || *text != '\0')
        return false;
    *ret_lsn = lsn;
    return true;
}

bool pg_parse_walfile(const char *text, uint32_t *ret_timeline)
{
    uint32_t timeline, rest;
    if (text == NULL || strlen(text) != 24)
        return false;
    const char *at = text;
    if (!hex(&at, 8, &timeline) || at != text + 8 || !hex(&at, 8, &rest) || at != text + 16 || !hex(&at, 8, &rest) || at != text + 24 ||
        timeline == 0)
        return false;
    *ret_timeline = timeline;
    return true;
}

static bool history_line(const char *line, const char *end, struct agent_switch *ret_switch)
{
    char number[12];
    size_t n = 0;
    uint64_t timeline;
    for (; line < end && *line >= '0' && *line <= '9' && n < sizeof(number) - 1; line++)
        number[n++] = *line;
    number[n] = '\0';
    if (!pg_parse_u64(number, &timeline) || timeline == 0 || timeline > UINT32_MAX)
        return false;
    if (line == end || (*line != '\t' && *line != ' '))
        return false;
    while (line < end && (*line == '\t' || *line == ' '))
        line++;
    ret_switch->timeline = (uint32_t)timeline;
    if (!lsn_at(&line, &ret_switch->lsn))
        return false;
    return line >= end || *line == '\t' || *line == ' ' || *line == '\r';
}

bool pg_parse_history(const char *text, struct agent_switch *ret_list, uint32_t max, uint32_t *ret_count)
{
    uint32_t count = 0, last = 0;
    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *end = strchrnul(line, '\n');
        const char *start = line;
        line = *end == '\n' ? end + 1 : end;
        while (start < end && (*start == ' ' || *start == '\t' || *start == '\r'))
            start++;
        if (start == end || *start == '#')
            continue;
        struct agent_switch entry;
        if (!history_line(start, end, &entry) || entry.timeline <= last)
            return false;
        last = entry.timeline;
        if (count == max) {
            memmove(ret_list, ret_list + 1, (max - 1) * sizeof(*ret_list));
            count--;
        }
        ret_list[count++] = entry;
    }
    *ret_count = count;
    return true;
}
