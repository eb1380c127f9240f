//! The loop of design.md section 3: step; commit events, outbox rows and the seen message together; apply; effects.
//! Then ticks, until one records nothing.

use std::collections::BTreeSet;

use beacon_cohort::ids::{PeerId, Timestamp};
use beacon_cohort::machine::{ChainFact, Code, Input, Rejection, Step, Watches};
use beacon_cohort::message::{Message, MessageError};
use beacon_cohort::signer::{SignerAnswer, SignerRequest};
use beacon_runtime::outbox::thread_of;
use beacon_runtime::store::{Batch, Seen, Store as _};
use bitcoin::Transaction;
use serde_json::Value;

use super::{Comparable, Node, Stop, broken};
use crate::simulator::envelope::{EMPTY, Envelope, Pen, REPORT};
use crate::simulator::world::{COORDINATOR, Frame, Happening, Name, NodeId, World, node_of, peer};

/// Ticks after which a machine should have come to rest.
const MAX_TICKS: u32 = 1_000;
/// Milliseconds between two looks at the chain.
const POLL_MS: u64 = 5_000;
/// Milliseconds between two looks at everything that waits, at the longest and at the shortest.
const SCAN_MS: u64 = 30_000;
const SHORTEST_SCAN_MS: u64 = 50;
/// Seconds by which clocks may differ.
pub(super) const SKEW_S: u64 = 300;

/// What happens once, and nobody repeats.
#[derive(Clone, Debug)]
pub(super) enum Own {
    /// The signer's answer.
    Signer(SignerAnswer),
    /// The process has started.
    Restarted,
}

/// The message that led to a step.
pub(super) struct Cause {
    pub(super) envelope: Envelope,
    /// Rows that have done their work now that it has arrived.
    pub(super) retire: Vec<String>,
}

impl<M: Comparable> Node<M> {
    /// Takes a frame in.
    pub(super) fn receive(
        &mut self,
        packed: &[u8],
        socket: u32,
        world: &mut World,
    ) -> Result<(), Stop> {
        let envelope: Envelope = serde_json::from_slice(packed).map_err(broken)?;
        if envelope.expires_time + SKEW_S <= world.now(self.id).0 {
            return Ok(());
        }
        let seen = self.disk.store.seen(envelope.from.as_str(), &envelope.id);
        if let Some(Seen { answers, .. }) = seen.map_err(broken)? {
            for packed in answers {
                let frame = Frame {
                    kind: "an answer again".to_owned(),
                    packed: packed.into(),
                };
                self.transmit(&envelope.from, &frame, world)?;
            }
            return Ok(());
        }
        let sender = recipient(&envelope.from)?;
        if self.id == COORDINATOR {
            world.network.heard(sender, socket);
        }
        match envelope.kind.as_str() {
            EMPTY => {
                let cause = self.cause(envelope, None);
                if !cause.retire.is_empty() {
                    let _ = self.carry_out(Step::nothing(), Some(&cause), world)?;
                }
                Ok(())
            }
            REPORT => {
                let text = |member| {
                    let text = envelope.body.get(member).and_then(Value::as_str);
                    text.unwrap_or_default().to_owned()
                };
                let thread = envelope.pthid.as_ref();
                let input = Input::Problem {
                    from: envelope.from.clone(),
                    cohort: thread.and_then(|thread| thread.parse().ok()),
                    code: text("code"),
                    comment: text("comment"),
                };
                let cause = self.cause(envelope, None);
                let outcome = self.input(input, Some(&cause), world)?;
                outcome.map_err(|rejection| broken(format!("a report was rejected: {rejection}")))
            }
            kind => {
                let message = match Message::parse(kind, &envelope.body) {
                    Ok(message) => message,
                    Err(error) if world.is_dishonest(sender) => {
                        let code = match &error {
                            MessageError::UnknownType(_) => Code::UnknownType,
                            MessageError::Malformed { .. } => Code::Malformed,
                        };
                        let rejection = Rejection::new(code, error.to_string(), "a message");
                        world.note(format_args!("{} refuses: {rejection}", Name(self.id)));
                        return self.refuse(&envelope, &rejection, world);
                    }
                    Err(error) => return Err(broken(error)),
                };
                world.witness.received(sender, self.id, &message);
                let cause = self.cause(envelope, Some(&message));
                let input = Input::Message {
                    from: cause.envelope.from.clone(),
                    to: peer(self.id),
                    message,
                };
                // A refused message writes nothing; its sender was told.
                let _refused = self.input(input, Some(&cause), world)?;
                Ok(())
            }
        }
    }

    /// The signer carries a request out; its answer is an input.
    pub(in crate::simulator) fn sign(
        &mut self,
        request: SignerRequest,
        world: &mut World,
    ) -> Result<(), Stop> {
        let Some(answer) = self.signer.handle(request) else {
            return Ok(());
        };
        if let SignerAnswer::Partials {
            cohort, session, ..
        } = &answer
        {
            let signed = world.witness.signed(self.id, *cohort, *session);
            signed.map_err(Stop::Broken)?;
        }
        self.keep_trying(Own::Signer(answer), world)
    }

    /// An input of our own that comes once only: what the store refuses of it is tried again.
    pub(super) fn keep_trying(&mut self, own: Own, world: &mut World) -> Result<(), Stop> {
        let input = match own.clone() {
            Own::Signer(answer) => Input::Signer(answer),
            Own::Restarted => Input::Restarted,
        };
        let step = self.machine.step(input, world.now(self.id), &mut self.rng);
        let step = step.map_err(|rejection| {
            broken(format!(
                "an input without a sender was rejected: {rejection}"
            ))
        })?;
        if !self.carry_out(step, None, world)? {
            self.deferred.push(own);
        }
        self.tick(world)
    }

    /// A machine's deadline has come.
    pub(super) fn wake(&mut self, world: &mut World) -> Result<(), Stop> {
        if self
            .deadline
            .is_none_or(|deadline| world.now(self.id) < deadline)
        {
            return Ok(()); // It was put off.
        }
        self.deadline = None;
        for own in std::mem::take(&mut self.deferred) {
            self.keep_trying(own, world)?;
        }
        self.inform(Input::Tick, world)
    }

    /// Gives a transaction to the network, and hears what became of it.
    pub(super) fn broadcast(&mut self, tx: Transaction, world: &mut World) -> Result<(), Stop> {
        let txid = tx.compute_txid();
        let outcome = world.broadcast(tx);
        self.inform(Input::Chain(ChainFact::Broadcast { txid, outcome }), world)
    }

    /// Asks the chain source about everything that is watched.
    pub(super) fn poll(&mut self, world: &mut World) -> Result<(), Stop> {
        if self.poll_at != Some(world.clock) {
            return Ok(()); // It was moved.
        }
        self.poll_at = None;
        for fact in world.ask_chain(&self.watches).unwrap_or_default() {
            self.inform(Input::Chain(fact), world)?;
        }
        self.keep_polling(POLL_MS, world);
        Ok(())
    }

    /// Sends what is due again, and drops what is of no use any more.
    pub(super) fn look_into_outbox(&mut self, world: &mut World) -> Result<(), Stop> {
        if self.resend_at != Some(world.clock) {
            return Ok(()); // It was moved.
        }
        self.resend_at = None;
        let pruned = self
            .disk
            .store
            .prune(world.now(self.id).0)
            .map_err(broken)?;
        self.outbox.take(pruned.outbox, Vec::new());
        let mut peers: Vec<String> = self.outbox.peers().cloned().collect();
        peers.sort();
        self.send_to(peers, world)
    }

    /// There is a new connection to a peer.
    pub(super) fn connected(&mut self, node: NodeId, world: &mut World) -> Result<(), Stop> {
        self.outbox.connected(peer(node).as_str());
        self.send_due(world)
    }

    /// Sends what is due to those for whom something is new.
    pub(super) fn send_due(&mut self, world: &mut World) -> Result<(), Stop> {
        let fresh: BTreeSet<String> = self.outbox.take_fresh().into_iter().collect();
        self.send_to(fresh, world)
    }

    fn send_to(
        &mut self,
        peers: impl IntoIterator<Item = String>,
        world: &mut World,
    ) -> Result<(), Stop> {
        // There is always another look while something waits: for what has expired.
        let mut next = world.clock + SCAN_MS;
        for to in peers {
            let (now, unix_now) = (world.instant(), world.now(self.id).0);
            let due = self.outbox.due(&to, now, unix_now);
            let to = PeerId::new(to);
            for row in due {
                let frame = Frame {
                    kind: row.kind,
                    packed: row.packed.into(),
                };
                self.transmit(&to, &frame, world)?;
            }
            if let Some(at) = self.outbox.next_due(to.as_str(), now, unix_now) {
                next = next.min(world.clock_at(at));
            }
        }
        let next = next.max(world.clock + SHORTEST_SCAN_MS);
        if !self.outbox.is_empty() && self.resend_at.is_none_or(|set| next < set) {
            self.resend_at = Some(next);
            let (node, run) = (self.id, self.run);
            world.schedule(next - world.clock, Happening::Resend { node, run });
        }
        Ok(())
    }

    /// An input that is nobody's doing: nothing may be wrong with it.
    pub(super) fn inform(
        &mut self,
        input: Input<M::Command>,
        world: &mut World,
    ) -> Result<(), Stop> {
        self.tell(input, world)?.map_err(|rejection| {
            broken(format!(
                "an input without a sender was rejected: {rejection}"
            ))
        })
    }

    /// An input that no message led to. The outer error ends the process; the inner one is what a user is told.
    pub(super) fn tell(
        &mut self,
        input: Input<M::Command>,
        world: &mut World,
    ) -> Result<Result<(), Rejection>, Stop> {
        self.input(input, None, world)
    }

    fn input(
        &mut self,
        input: Input<M::Command>,
        cause: Option<&Cause>,
        world: &mut World,
    ) -> Result<Result<(), Rejection>, Stop> {
        match self.machine.step(input, world.now(self.id), &mut self.rng) {
            Ok(step) => {
                if !self.carry_out(step, cause, world)?
                    && let Some(Cause { envelope, .. }) = cause
                {
                    // No acknowledgement: the message is welcome when it comes again.
                    let mut welcome = envelope.clone();
                    welcome.id.clear();
                    let full = Rejection::new(Code::Limit, "one record more", "room in the store");
                    self.refuse(&welcome, &full, world)?;
                }
            }
            Err(rejection) => {
                world.note(format_args!("{} refuses: {rejection}", Name(self.id)));
                if let Some(Cause { envelope, .. }) = cause {
                    self.refuse(envelope, &rejection, world)?;
                }
                return Ok(Err(rejection));
            }
        }
        self.tick(world)?;
        Ok(Ok(()))
    }

    /// Ticks until the facts have no more consequences.
    fn tick(&mut self, world: &mut World) -> Result<(), Stop> {
        for _ in 0..MAX_TICKS {
            let tick = self
                .machine
                .step(Input::Tick, world.now(self.id), &mut self.rng)
                .map_err(|rejection| broken(format!("a tick was rejected: {rejection}")))?;
            if tick.events.is_empty() && !tick.effects.is_empty() {
                return Err(broken(format!(
                    "a tick that records nothing has effects, and would have them again and again: {:?}",
                    tick.effects
                )));
            }
            let idle = tick.events.is_empty();
            let refused = !self.carry_out(tick, None, world)?;
            if idle || refused {
                return self.rest(refused || !self.deferred.is_empty(), world);
            }
        }
        Err(broken(format!(
            "no rest after {MAX_TICKS} ticks in a row that recorded something"
        )))
    }

    /// What a process does once there is nothing left to do: it waits for the next deadline and watches the chain.
    fn rest(&mut self, refused: bool, world: &mut World) -> Result<(), Stop> {
        let (node, run) = (self.id, self.run);
        let next = self.machine.next_deadline();
        let sooner = |next: &Timestamp| self.deadline.is_none_or(|set| *next < set);
        if let Some(deadline) = next.filter(sooner) {
            if deadline <= world.now(node) && !refused {
                return Err(broken(format!(
                    "at rest though the deadline {deadline} has passed: a driver would look again at once, for ever"
                )));
            }
            // What the store refused is tried again a moment later.
            let deadline = deadline.max(world.now(node).after(1));
            self.deadline = Some(deadline);
            world.schedule_at(node, deadline, Happening::Deadline { node, run });
        } else if refused {
            let deadline = world.now(node).after(1);
            self.deadline = Some(deadline);
            world.schedule_at(node, deadline, Happening::Deadline { node, run });
        }
        let watches = self.machine.watches();
        if watches != self.watches {
            // What is new is asked about at once.
            self.watches = watches;
            self.poll_at = None;
            self.keep_polling(10, world);
        }
        self.snapshot_when_due()
    }

    fn keep_polling(&mut self, delay: u64, world: &mut World) {
        if self.poll_at.is_none() && self.watches != Watches::default() {
            self.poll_at = Some(world.clock + delay);
            let (node, run) = (self.id, self.run);
            world.schedule(delay, Happening::Poll { node, run });
        }
    }

    fn cause(&self, envelope: Envelope, message: Option<&Message>) -> Cause {
        let (thread, kinds) = message.map_or_else(
            || (String::new(), &[][..]),
            |message| (thread_of(message), message.answers()),
        );
        let retire = self
            .outbox
            .answered(envelope.from.as_str(), &envelope.ack, &thread, kinds);
        Cause { envelope, retire }
    }

    /// Tells a sender that its message was refused. Nothing is written: if this gets lost, the message comes again.
    fn refuse(
        &mut self,
        refused: &Envelope,
        rejection: &Rejection,
        world: &mut World,
    ) -> Result<(), Stop> {
        let mut pen = Pen {
            from: peer(self.id),
            now: world.now(self.id),
            rng: &mut self.rng,
        };
        let (to, thread) = (&refused.from, refused.thid.clone());
        let about = Some(refused.id.as_str()).filter(|id| !id.is_empty());
        let packed = pen.report(to, thread, about, rejection);
        let frame = Frame {
            kind: format!("problem report {rejection}"),
            packed: serde_json::to_vec(&packed).map_err(broken)?.into(),
        };
        self.transmit(to, &frame, world)
    }

    pub(super) fn transmit(
        &self,
        to: &PeerId,
        frame: &Frame,
        world: &mut World,
    ) -> Result<(), Stop> {
        world.transmit(self.id, recipient(to)?, frame);
        Ok(())
    }

    pub(super) fn note_events(&self, batch: &Batch, world: &mut World) {
        for event in &batch.events {
            let event: Value = serde_json::from_slice(event).unwrap_or_default();
            let text = |member| event.get(member).and_then(Value::as_str).unwrap_or("");
            let details = ["code", "comment", "reason", "culprit", "session"].map(text);
            world.note(format_args!(
                "{} commits {} {}",
                Name(self.id),
                text("event"),
                details.join(" ").trim()
            ));
        }
    }
}

pub(super) fn receipt_frame(receipt: &Envelope) -> Result<Frame, Stop> {
    Ok(Frame {
        kind: "receipt".to_owned(),
        packed: serde_json::to_vec(receipt).map_err(broken)?.into(),
    })
}

pub(super) fn recipient(to: &PeerId) -> Result<NodeId, Stop> {
    node_of(to).ok_or_else(|| broken(format!("a message to a stranger, {to}")))
}
