//! One step's way to the disk and into the world.

use beacon_cohort::ids::Timestamp;
use beacon_cohort::machine::{Effect, Step};
use beacon_runtime::store::{Batch, OutboxRow, Seen, SeenRow, Store as _};

use super::drive::{Cause, SKEW_S, receipt_frame, recipient};
use super::{Comparable, Node, Stop, broken};
use crate::simulator::envelope::{Envelope, Pen};
use crate::simulator::world::{Disk, Frame, Happening, Name, World, peer};

/// Milliseconds that a signer takes.
const SIGNER_MS: u64 = 10;

impl<M: Comparable> Node<M> {
    /// Commits a step, applies it, carries its effects out. `false` when the store refused it: nothing has happened then.
    pub(super) fn carry_out(
        &mut self,
        step: Step<M::Event>,
        cause: Option<&Cause>,
        world: &mut World,
    ) -> Result<bool, Stop> {
        if step.is_empty() {
            let Some(cause) = cause else {
                return Ok(true);
            };
            if cause.retire.is_empty() {
                // Nothing to remember: the same message would change nothing again.
                if cause.envelope.please_ack {
                    self.send_receipt(&cause.envelope, world)?;
                }
                return Ok(true);
            }
        }
        let mut batch = Batch::default();
        for event in &step.events {
            batch
                .events
                .push(serde_json::to_vec(event).map_err(broken)?);
        }
        let receipt = self.write_messages(&step, cause, &mut batch, world.now(self.id))?;
        self.pass_boundary(world)?;
        let disk = world.disk();
        match disk {
            Disk::Refuses => {
                world.note(format_args!("{}: the store refuses", Name(self.id)));
                return Ok(false);
            }
            Disk::Fails { written: false } => return Err(Stop::Crashed),
            Disk::Sound | Disk::Fails { written: true } => {}
        }
        self.disk.store.commit(&batch).map_err(broken)?;
        self.disk.archive.extend(batch.events.iter().cloned());
        self.committing = true;
        self.note_events(&batch, world);
        for effect in &step.effects {
            if let Effect::Send { to, message, .. } = effect {
                let watched = world.witness.committed(self.id, recipient(to)?, message);
                watched.map_err(Stop::Broken)?;
                self.machine
                    .check_before(&self.former, message)
                    .map_err(|reason| broken(format!("{}: {reason}", message.kind())))?;
            }
        }
        if disk != Disk::Sound {
            return Err(Stop::Crashed);
        }
        self.pass_boundary(world)?;
        for event in &step.events {
            self.machine.apply(event);
        }
        self.committing = false;
        self.outbox.take(batch.retire, batch.outbox);
        self.send_due(world)?;
        if let Some((frame, cause)) = receipt.zip(cause) {
            self.transmit(&cause.envelope.from, &frame, world)?;
        }
        for effect in step.effects {
            self.effect(effect, world);
        }
        self.pass_boundary(world)?;
        Ok(true)
    }

    pub(super) fn send_receipt(&mut self, about: &Envelope, world: &mut World) -> Result<(), Stop> {
        let mut pen = Pen {
            from: peer(self.id),
            now: world.now(self.id),
            rng: &mut self.rng,
        };
        let packed = pen.receipt(&about.from, &about.id);
        let frame = receipt_frame(&packed)?;
        self.transmit(&about.from, &frame, world)
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
                Effect::Broadcast(_) | Effect::Sign(_) | Effect::ProveControl(_) => continue,
            };
            if !self.outbox.has_room(to.as_str(), kind) {
                continue; // Dropped with a warning: dead peers must not stop others.
            }
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
        for row in &batch.outbox {
            batch.retire.extend(self.outbox.superseded(row));
        }
        let Some(Cause { envelope, retire }) = cause else {
            return Ok(None);
        };
        let mut receipt = None;
        if answers.is_empty() && envelope.please_ack {
            let frame = receipt_frame(&pen.receipt(&envelope.from, &envelope.id))?;
            answers.push(frame.packed.to_vec());
            receipt = Some(frame);
        }
        batch.retire.extend(retire.iter().cloned());
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
            // In the outbox since the commit. Nobody contests here.
            Effect::Send { .. } | Effect::Report { .. } | Effect::ProveControl(_) => {}
            Effect::Broadcast(tx) => {
                let delay = world.dice.between(20, 200);
                world.schedule(delay, Happening::Broadcast { node, run, tx });
            }
            Effect::Sign(request) => {
                // The same for all: a driver carries them out one after the other.
                world.schedule(SIGNER_MS, Happening::Signer { node, run, request });
            }
        }
    }
}
