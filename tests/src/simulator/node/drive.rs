//! The loop of design.md section 3: step; commit events, outbox rows and the seen message together; apply; effects.
//! Then ticks, until one records nothing.

use beacon_cohort::ids::{PeerId, Timestamp};
use beacon_cohort::machine::{ChainFact, Effect, Input, Rejection, Step, Watches};
use beacon_cohort::message::Message;
use beacon_cohort::signer::{SignerAnswer, SignerRequest};
use beacon_runtime::store::{Batch, OutboxRow, Seen, SeenRow, Store as _};
use bitcoin::Transaction;
use serde_json::Value;

use super::envelope::{EMPTY, Envelope, Pen, REPORT, thread};
use super::outbox::FIRST_WAIT_MS;
use super::{Comparable, Node, Stop, broken};
use crate::simulator::world::{Frame, Happening, Name, NodeId, World, node_of, peer};

/// Ticks after which a machine should have come to rest.
const MAX_TICKS: u32 = 1_000;
/// Milliseconds between two looks at the chain.
const POLL_MS: u64 = 5_000;
/// Seconds by which clocks may differ.
const SKEW_S: u64 = 300;

/// The message that led to a step.
struct Cause {
    envelope: Envelope,
    /// Rows that have done their work now that it has arrived.
    retire: Vec<String>,
}

impl<M: Comparable> Node<M> {
    /// Takes a frame in.
    pub(super) fn receive(&mut self, packed: &[u8], world: &mut World) -> Result<(), Stop> {
        let envelope: Envelope = serde_json::from_slice(packed).map_err(broken)?;
        if envelope.expires_time + SKEW_S <= world.now().0 {
            return Ok(());
        }
        let seen = self.store.seen(envelope.from.as_str(), &envelope.id);
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
        match envelope.kind.as_str() {
            EMPTY => {
                let cause = self.cause(envelope, None);
                self.carry_out(Step::nothing(), Some(&cause), world)
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
                let message = Message::parse(kind, &envelope.body).map_err(broken)?;
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
    pub(super) fn sign(&mut self, request: SignerRequest, world: &mut World) -> Result<(), Stop> {
        let Some(answer) = self.signer.handle(request) else {
            return Ok(());
        };
        if let SignerAnswer::Partials { session, .. } = &answer {
            let signed = world.witness.signed(self.id, *session);
            signed.map_err(Stop::Broken)?;
        }
        self.inform(Input::Signer(answer), world)
    }

    /// A machine's deadline has come.
    pub(super) fn wake(&mut self, world: &mut World) -> Result<(), Stop> {
        if self.deadline.is_none_or(|deadline| world.now() < deadline) {
            return Ok(()); // It was put off.
        }
        self.deadline = None;
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
        self.resending = false;
        let pruned = self.store.prune(world.now().0).map_err(broken)?;
        self.outbox.remove(&pruned.outbox);
        self.send_due(world)
    }

    /// Sends what is due.
    pub(super) fn send_due(&mut self, world: &mut World) -> Result<(), Stop> {
        for due in self.outbox.take_due(world.clock) {
            let frame = Frame {
                kind: due.kind,
                packed: due.packed,
            };
            self.transmit(&due.to, &frame, world)?;
        }
        if !self.resending && !self.outbox.is_empty() {
            self.resending = true;
            let (node, run) = (self.id, self.run);
            world.schedule(FIRST_WAIT_MS, Happening::Resend { node, run });
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
        match self.machine.step(input, world.now(), &mut self.rng) {
            Ok(step) => self.carry_out(step, cause, world)?,
            Err(rejection) => {
                world.note(format_args!("{} refuses: {rejection}", Name(self.id)));
                if let Some(Cause { envelope, .. }) = cause {
                    self.refuse(envelope, &rejection, world)?;
                }
                return Ok(Err(rejection));
            }
        }
        for _ in 0..MAX_TICKS {
            let tick = self
                .machine
                .step(Input::Tick, world.now(), &mut self.rng)
                .map_err(|rejection| broken(format!("a tick was rejected: {rejection}")))?;
            if tick.events.is_empty() {
                if tick.effects.is_empty() {
                    self.rest(world)?;
                    return Ok(Ok(()));
                }
                return Err(broken(format!(
                    "a tick that records nothing has effects, and would have them again and again: {:?}",
                    tick.effects
                )));
            }
            self.carry_out(tick, None, world)?;
        }
        Err(broken(format!(
            "no rest after {MAX_TICKS} ticks in a row that recorded something"
        )))
    }

    fn carry_out(
        &mut self,
        step: Step<M::Event>,
        cause: Option<&Cause>,
        world: &mut World,
    ) -> Result<(), Stop> {
        // What waits in its sender's outbox is recorded and acknowledged even if it changes nothing.
        let cause = cause.filter(|cause| {
            cause.envelope.please_ack || !cause.retire.is_empty() || !step.is_empty()
        });
        if step.is_empty() && cause.is_none() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for event in &step.events {
            batch
                .events
                .push(serde_json::to_vec(event).map_err(broken)?);
        }
        let receipt = self.write_messages(&step, cause, &mut batch, world.now())?;
        self.pass_boundary(world)?;
        self.store.commit(&batch).map_err(broken)?;
        self.committing = true;
        self.note_events(&batch, world);
        for effect in &step.effects {
            if let Effect::Send { to, message, .. } = effect {
                let watched = world.witness.committed(self.id, recipient(to)?, message);
                watched.map_err(Stop::Broken)?;
            }
        }
        self.pass_boundary(world)?;
        for event in &step.events {
            self.machine.apply(event);
        }
        self.committing = false;
        self.outbox.remove(&batch.retire);
        for row in batch.outbox {
            self.outbox.add(row, world.clock);
        }
        self.send_due(world)?;
        if let Some((frame, cause)) = receipt.zip(cause) {
            self.transmit(&cause.envelope.from, &frame, world)?;
        }
        for effect in step.effects {
            self.effect(effect, world);
        }
        self.pass_boundary(world)
    }

    /// Puts the step's messages into the batch, with what is remembered of the message that led to them. Its first
    /// answer acknowledges it; without one there is a receipt.
    fn write_messages(
        &mut self,
        step: &Step<M::Event>,
        cause: Option<&Cause>,
        batch: &mut Batch,
        now: Timestamp,
    ) -> Result<Option<Frame>, Stop> {
        let mut pen = Pen {
            from: peer(self.id),
            now,
            rng: &mut self.rng,
        };
        let mut answers: Vec<Vec<u8>> = Vec::new();
        for effect in &step.effects {
            let (Effect::Send { to, .. } | Effect::Report { to, .. }) = effect else {
                continue;
            };
            let answered = cause.filter(|cause| cause.envelope.from == *to);
            let ack = answered
                .filter(|_| answers.is_empty())
                .map(|cause| cause.envelope.id.as_str());
            let (mut envelope, kind) = match effect {
                Effect::Send {
                    message, expires, ..
                } => {
                    let envelope = pen.message(to, message, *expires, ack);
                    (envelope.map_err(broken)?, message.kind())
                }
                Effect::Report {
                    cohort, rejection, ..
                } => {
                    let envelope = pen.report(to, cohort.to_string(), ack, rejection);
                    (envelope, "problem-report")
                }
                Effect::Broadcast(_) | Effect::Sign(_) => continue,
            };
            envelope.please_ack = true;
            let packed = serde_json::to_vec(&envelope).map_err(broken)?;
            if answered.is_some() {
                answers.push(packed.clone());
            }
            batch.outbox.push(OutboxRow {
                id: envelope.id,
                from: envelope.from.as_str().to_owned(),
                to: to.as_str().to_owned(),
                kind: kind.to_owned(),
                thid: envelope.thid,
                expires: envelope.expires_time,
                packed,
            });
        }
        let Some(Cause { envelope, retire }) = cause else {
            return Ok(None);
        };
        let mut receipt = None;
        if answers.is_empty() && envelope.please_ack {
            let packed = pen.receipt(&envelope.from, &envelope.id);
            let packed = serde_json::to_vec(&packed).map_err(broken)?;
            answers.push(packed.clone());
            receipt = Some(Frame {
                kind: "receipt".to_owned(),
                packed: packed.into(),
            });
        }
        batch.retire.clone_from(retire);
        batch.seen = Some(SeenRow {
            privileged: true,
            sender: envelope.from.as_str().to_owned(),
            id: envelope.id.clone(),
            seen: Seen {
                expires: envelope.expires_time + SKEW_S,
                answers,
            },
        });
        Ok(receipt)
    }

    fn effect(&self, effect: Effect, world: &mut World) {
        let (node, run) = (self.id, self.run);
        match effect {
            Effect::Send { .. } | Effect::Report { .. } => {} // In the outbox since the commit.
            Effect::Broadcast(tx) => {
                let delay = world.dice.between(20, 200);
                world.schedule(delay, Happening::Broadcast { node, run, tx });
            }
            Effect::Sign(request) => {
                let delay = world.dice.between(1, 20);
                world.schedule(delay, Happening::Signer { node, run, request });
            }
        }
    }

    /// What a process does once there is nothing left to do: it waits for the next deadline and watches the chain.
    fn rest(&mut self, world: &mut World) -> Result<(), Stop> {
        let (node, run) = (self.id, self.run);
        let next = self.machine.next_deadline();
        let sooner = |next: &Timestamp| self.deadline.is_none_or(|set| *next < set);
        if let Some(deadline) = next.filter(sooner) {
            if deadline <= world.now() {
                return Err(broken(format!(
                    "at rest though the deadline {deadline} has passed: a driver would look again at once, for ever"
                )));
            }
            self.deadline = Some(deadline);
            world.schedule_at(deadline, Happening::Deadline { node, run });
        }
        let watches = self.machine.watches();
        if watches != self.watches {
            // What is new is asked about at once.
            self.watches = watches;
            self.poll_at = None;
            self.keep_polling(10, world);
        }
        Ok(())
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
            |message| (thread(message), message.answers()),
        );
        let retire = self
            .outbox
            .answered(&envelope.from, &envelope.ack, &thread, kinds);
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
            now: world.now(),
            rng: &mut self.rng,
        };
        let (to, thread) = (&refused.from, refused.thid.clone());
        let packed = pen.report(to, thread, Some(&refused.id), rejection);
        let frame = Frame {
            kind: format!("problem report {rejection}"),
            packed: serde_json::to_vec(&packed).map_err(broken)?.into(),
        };
        self.transmit(to, &frame, world)
    }

    fn transmit(&self, to: &PeerId, frame: &Frame, world: &mut World) -> Result<(), Stop> {
        world.transmit(self.id, recipient(to)?, frame);
        Ok(())
    }

    fn note_events(&self, batch: &Batch, world: &mut World) {
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

fn recipient(to: &PeerId) -> Result<NodeId, Stop> {
    node_of(to).ok_or_else(|| broken(format!("a message to a stranger, {to}")))
}
