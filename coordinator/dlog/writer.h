/*
 * writer.h: the decision log's two threads.
 *
 *   writer    waits for dlog_writer_kick(), then dlog_write()s until nothing is left. While it writes one batch, the
 * owner appends the next: group commit needs no timer and no waiting for company. preparer  makes spare segments and
 * recycles old ones (dlog_prepare), so that neither the owner nor the writer waits for megabytes of zeros.
 *
 * After each batch, and when the log has failed, the descriptor of dlog_writer_fd() becomes readable: put it in the
 * event loop, and call dlog_writer_check() and dlog_durable() there. The threads take no signals. All functions belong
 * to the owner's thread.
 */
#ifndef LOCKSTEP_DLOG_WRITER_H
#define LOCKSTEP_DLOG_WRITER_H

#include "coordinator/dlog/dlog.h"

struct dlog_writer;

/* Starts the threads. From now on nobody else calls dlog_write() and dlog_prepare() of this log. */
enum ls_status dlog_writer_start(struct dlog *log, struct dlog_writer **ret_writer, struct ls_error *err) LS_MUST_CHECK;
/* Writes what is appended, then ends the threads and frees the writer; the log stays open. LS_ERR_IO: the log has
 * failed. NULL is fine. */
enum ls_status dlog_writer_stop(struct dlog_writer *writer, struct ls_error *err) LS_MUST_CHECK;

/* There is something to write. Cheap when the writer is at work already; call it once after a round of appends. */
void dlog_writer_kick(struct dlog_writer *writer);
/* An eventfd, owned by the writer. */
int dlog_writer_fd(const struct dlog_writer *writer);
/* Makes the descriptor unreadable until the next batch. LS_ERR_IO: the log has failed; err says why. */
enum ls_status dlog_writer_check(struct dlog_writer *writer, struct ls_error *err) LS_MUST_CHECK;

#endif
