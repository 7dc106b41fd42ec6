/*
 * agentmsg.h: frames of the coordinator become events of the agent's core, effects of the core become frames. Pure: the
 * daemon (link.c) and the simulator run the same code.
 */
#ifndef LOCKSTEP_AGENTMSG_H
#define LOCKSTEP_AGENTMSG_H

#include "lockstep.pb-c.h"
#include "participant/core/agent.h"

/* One frame under construction, with everything it may point at. Large: keep it static. */
struct agentmsg {
    Lockstep__Frame frame;
    Lockstep__Fence fence;
    Lockstep__Hello hello;
    Lockstep__Ready ready;
    Lockstep__Refuse refuse;
    Lockstep__Credit credit;
    Lockstep__Vote vote;
    Lockstep__Done done;
    Lockstep__Inquiry inquiry;
    Lockstep__Kept kept;
    Lockstep__TimelineSwitch switches[AGENT_HISTORY_MAX], *switch_list[AGENT_HISTORY_MAX];
    Lockstep__InquiryItem items[AGENT_INQUIRY_ITEMS_MAX], *item_list[AGENT_INQUIRY_ITEMS_MAX];
    char *kept_list[LS_KEPT_PAGE_MAX];
};

/* Builds message->frame for AEF_SEND_HELLO, READY, REFUSE, CREDIT, VOTE, DONE, INQUIRY or KEPT. It borrows the effect's
 * memory. The host adds what the core does not know: to Hello the names, nonce and the server's description, to a Vote
 * the results. */
void agentmsg_build(struct agentmsg *message, const struct agent_effect *effect);

/* The event of a frame other than Prove, which is one event per item: see agentmsg_read_decide(). It borrows the
 * frame's memory; answers also need `items`, room for AGENT_INQUIRY_ITEMS_MAX. False: not a frame that a coordinator
 * sends. Of Work, what the host judges itself (work, refused ...) is left empty; `usual_form` is the form of gids where
 * Work asks for none. */
bool agentmsg_read(const Lockstep__Frame *frame, enum ls_gid_form usual_form, struct agent_answer_item *items,
                   struct agent_event *event);
/* The link and the fence: what every frame says. */
void agentmsg_read_fence(const Lockstep__Frame *frame, uint64_t link, struct agent_event *event);
/* AEV_DECIDE, or AEV_PROVE for an item of Prove. */
void agentmsg_read_decide(const Lockstep__Decide *decide, bool prove, struct agent_event *event);

#endif
