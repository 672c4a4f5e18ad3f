//! The schedules that are run.

use raft::eraftpb::MessageType;

use super::*;
use crate::metadata::disk::{Disk, DiskBatch};
use crate::metadata::state::State;

/// Says which seed it was when a run panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}: SHEAF_SEED={} runs it alone", self.0, self.0);
        }
    }
}

fn run_seed(seed: u64) -> World {
    let _seed = Seed(seed);
    World::run(seed, 300)
}

/// Seeds to run: one of the environment, or so many.
fn seeds(n_default: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    match number("SHEAF_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SHEAF_SEEDS").unwrap_or(n_default)).collect(),
    }
}

#[test]
fn whatever_happens_no_answer_is_wrong() {
    let (mut counts, mut n_faults) = ([0; 4], 0);
    let seeds = seeds(400);
    for seed in &seeds {
        let world = run_seed(*seed);
        for (sum, count) in counts.iter_mut().zip(world.history.counts()) {
            *sum += count;
        }
        n_faults += world.n_faults;
    }
    println!("{} seeds, {n_faults} faults; took effect, refused, read, unanswered: {counts:?}", seeds.len());
    // A run in which nothing happens would find nothing.
    if seeds.len() > 1 {
        assert!(n_faults >= 2 * seeds.len() as u64, "{n_faults} faults");
        assert!(counts.iter().all(|count| *count >= seeds.len()), "{counts:?}");
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..8 {
        assert_eq!(run_seed(seed).history.trace(), run_seed(seed).history.trace());
    }
}

#[test]
fn without_faults_everything_is_answered() {
    for seed in 0..8 {
        let mut world = World::new(seed, &[1, 2, 3]);
        while world.leader().is_none() {
            world.step();
        }
        for _ in 0..200 {
            world.client();
            world.step();
        }
        world.settle();
        assert_eq!(world.history.counts()[3], 0, "seed {seed}");
        world.history.check();
    }
}

/// Every write and flush of a node alone is tried as its last.
#[test]
fn a_crash_in_any_write_keeps_what_was_acknowledged() {
    let mut n_crashes = 0;
    for seed in 0..4 {
        for (point, after) in FailPoint::ALL.into_iter().flat_map(|point| (0..40).map(move |after| (point, after))) {
            let _seed = Seed(seed);
            let mut world = World::new(seed, &[1]);
            world.nodes[&1].disk.fail_after(after, point);
            for _ in 0..60 {
                if world.running().is_empty() {
                    n_crashes += 1;
                    world.start(1);
                }
                world.client();
                world.step();
            }
            world.settle();
            world.call_read(1);
            world.settle();
            world.history.check();
        }
    }
    assert!(n_crashes >= 4 * 4 * 35, "only {n_crashes} crashes");
}

fn set(world: &mut World, id: u64, key: &str, value: &str) {
    let call = world.call(id, vec![Change::create(Object::setting(key), value, IfExists::Replace)], None).unwrap();
    for _ in 0..200 {
        if world.history.took_effect(call) {
            return;
        }
        world.step();
    }
    panic!("{key} was not set: {:#?}", world.statuses());
}

fn state(world: &mut World, id: u64) -> State {
    world.replica(id).unwrap().state().read().clone()
}

#[test]
fn a_replica_that_was_away_for_long_catches_up_by_snapshot() {
    let mut world = World::new(1, &[1, 2, 3]);
    while world.leader().is_none_or(|leader| leader == 3) {
        world.step();
        if world.leader() == Some(3) {
            world.replica(3).unwrap().hand_over();
        }
    }
    set(&mut world, 1, "before", "");
    let before = state(&mut world, 3).applied();
    world.kill(3, true);
    for value in 0..200 {
        set(&mut world, 1, "a", &value.to_string());
    }
    let status = world.statuses().into_iter().find(|it| it.replica == 1).unwrap();
    assert!(status.cut > before && status.last - status.cut <= 32, "the log is cut: {status:?}");
    world.start(3);
    world.settle();
    let (one, three) = (state(&mut world, 1), state(&mut world, 3));
    assert_eq!(one, three);
    let status = world.statuses().into_iter().find(|it| it.replica == 3).unwrap();
    assert!(status.cut > before, "it did not replay what is gone: {status:?}");
    // What came by snapshot is on its disk.
    world.kill(3, true);
    world.start(3);
    assert!(state(&mut world, 3).applied() > before);
    world.settle();
    world.history.check();
}

fn of_type(kind: MessageType, mut message: Message) -> Message {
    message.set_msg_type(kind);
    message
}

/// A group of three at rest, which 1 leads.
fn led_by_one() -> World {
    let mut worlds = (0..100).map(|seed| {
        let mut world = World::new(seed, &[1, 2, 3]);
        world.settle();
        world
    });
    worlds.find(|world| world.leader() == Some(1)).expect("one of a hundred elects it")
}

fn advance(replica: &mut Replica) -> (Vec<Message>, Vec<Done>) {
    let mut sent = vec![];
    let done = replica.advance(&mut |message| sent.push(message)).unwrap();
    (sent, done)
}

#[test]
fn an_answer_to_an_earlier_start_is_not_one_to_this() {
    let mut world = led_by_one();
    let term = status(&world, 2).term;
    let two = world.replica(2).unwrap();
    two.read(TIMEOUT_TICKS);
    let (sent, _) = advance(two);
    let question = sent.into_iter().find(|it| it.get_msg_type() == MessageType::MsgReadIndex).unwrap();
    let answer = Message { from: 1, to: 2, term, index: 1, ..question };
    let answer = of_type(MessageType::MsgReadIndexResp, answer);
    let mut stale = answer.clone();
    let mut data = stale.entries[0].data.to_vec();
    data[15] ^= 1;
    stale.mut_entries().first_mut().unwrap().data = data.into();
    two.step(stale);
    assert!(advance(two).1.is_empty(), "another client asked that");
    two.step(answer);
    assert!(matches!(advance(two).1[..], [Done::Read { result: Ok(()), .. }]));
}

#[test]
fn a_question_that_comes_twice_must_be_confirmed_twice() {
    let mut world = led_by_one();
    let term = status(&world, 1).term;
    let one = world.replica(1).unwrap();
    let entry = raft::eraftpb::Entry { data: vec![7; 24].into(), ..Default::default() };
    let question = Message { from: 2, to: 1, entries: vec![entry].into(), ..Message::default() };
    let question = of_type(MessageType::MsgReadIndex, question);
    one.step(question.clone());
    let (sent, _) = advance(one);
    let asked = sent.into_iter().find(|it| it.get_msg_type() == MessageType::MsgHeartbeat).unwrap();
    let confirm = |from| {
        let context = asked.context.clone();
        of_type(MessageType::MsgHeartbeatResponse, Message { from, to: 1, term, context, ..Message::default() })
    };
    one.step(confirm(2));
    let (sent, _) = advance(one);
    assert!(sent.iter().any(|it| it.get_msg_type() == MessageType::MsgReadIndexResp), "it was answered: {sent:?}");
    one.read(TIMEOUT_TICKS);
    advance(one);
    one.step(question.clone());
    advance(one);
    // Late, from before the read. Since then there may be another leader.
    one.step(confirm(3));
    assert!(advance(one).1.is_empty(), "nobody has confirmed that this one still leads");
    // Without a question there is nothing to be read.
    one.step(Message { entries: vec![].into(), ..question });
    advance(one);
}

#[test]
fn a_damaged_snapshot_is_dropped() {
    let mut world = World::new(1, &[1, 2]);
    let mut message = Message { from: 2, to: 1, term: 9, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    message.mut_snapshot().mut_metadata().index = 50;
    message.mut_snapshot().data = b"nonsense".to_vec().into();
    let before = world.replica(1).unwrap().status();
    world.replica(1).unwrap().step(message);
    assert_eq!(world.replica(1).unwrap().status(), before);
}

#[test]
fn messages_for_others_are_dropped() {
    let mut world = World::new(1, &[1, 2]);
    for (from, to) in [(2, 3), (0, 1), (1, 1)] {
        let message = Message { from, to, term: 100, ..Message::default() };
        world.replica(1).unwrap().step(message);
        assert!(world.replica(1).unwrap().status().term < 100);
    }
}

#[test]
fn members_come_and_go_one_at_a_time() {
    let mut world = World::new(3, &[1]);
    world.settle();
    for new in 2..=5 {
        world.add_empty(new);
        world.call(1, vec![], Some(MemberChange::AddLearner { replica: new }));
        world.settle();
        set(&mut world, new, "by", &new.to_string());
        assert_eq!(world.statuses()[0].voters.len() as u64, new);
    }
    // The leader too, whoever it is, until one is left.
    for left in (1..=4).rev() {
        let leader = world.leader().unwrap();
        let asked = world.running().into_iter().find(|id| *id != leader).unwrap();
        let call = world.call(asked, vec![], Some(MemberChange::Remove { replica: leader })).unwrap();
        for _ in 0..300 {
            if !world.history.took_effect(call) {
                world.step();
            }
        }
        assert!(world.history.took_effect(call));
        // It may not have heard of it; whoever operates it stops it.
        if world.nodes.contains_key(&leader) {
            world.retire(leader);
        }
        world.settle();
        assert_eq!(world.statuses()[0].voters.len(), left);
        set(&mut world, asked, "left", &left.to_string());
    }
    let last = world.running()[0];
    let call = world.call(last, vec![], Some(MemberChange::Remove { replica: last })).unwrap();
    world.settle();
    assert!(!world.history.took_effect(call), "the last one stays");
}

fn status(world: &World, id: u64) -> Status {
    world.statuses().into_iter().find(|it| it.replica == id).expect("it runs")
}

/// Steps until something holds; whoever is not `awake` does not see time go by.
fn step_until(world: &mut World, awake: u64, mut holds: impl FnMut(&mut World) -> bool) {
    for _ in 0..200 {
        if holds(world) {
            return;
        }
        world.now += 1;
        world.replica(awake).unwrap().tick();
        world.deliver();
        world.running().into_iter().for_each(|id| world.advance(id));
    }
    panic!("it does not come to that: {:#?}", world.statuses());
}

/// The removal that one leader began is carried out by the next, which is the one that is removed; and the only one
/// that is left does not hear of it.
#[test]
fn a_leader_that_removes_itself_stays_to_vote() {
    for seed in 0..20 {
        let _seed = Seed(seed);
        let mut world = World::new(seed, &[1, 2]);
        step_until(&mut world, 2, |world| {
            world.leader() == Some(2) && status(world, 2).commit == status(world, 2).last
        });
        world.cut_links.insert((1, 2));
        world.call(2, vec![], Some(MemberChange::Remove { replica: 1 }));
        step_until(&mut world, 1, |world| status(world, 1).last == status(world, 2).last);
        world.kill(2, false);
        world.cut_links.clear();
        world.start(2);
        step_until(&mut world, 1, |world| world.leader() == Some(1) && status(world, 1).last == status(world, 2).last);
        assert!(status(&world, 1).commit < status(&world, 1).last, "the answer of 2 is on its way");
        world.cut_links.insert((1, 2));
        step_until(&mut world, 1, |world| {
            // So that it always has something to write, too.
            world.call(1, vec![Change::create(Object::setting("a"), "", IfExists::Replace)], None);
            status(world, 1).role == "removed"
        });
        assert_eq!((status(&world, 2).voters, world.leader()), (vec![1, 2], None));
        world.cut_links.clear();
        world.settle();
        assert_eq!((status(&world, 2).voters, world.leader()), (vec![2], Some(2)));
        // From now on it is not needed any more, even after a crash.
        if world.nodes.contains_key(&1) {
            world.retire(1);
        }
        world.kill(2, true);
        world.start(2);
        set(&mut world, 2, "alone", "");
        world.history.check();
    }
}

#[test]
fn damage_is_told_and_nothing_is_guessed() {
    use crate::metadata::store::Store;
    let mut world = World::new(1, &[1]);
    world.settle();
    for value in 0..5 {
        set(&mut world, 1, "a", &value.to_string());
    }
    // A last entry that the disk does not say was applied is not missed: it might never have been written.
    world.nodes.get_mut(&1).and_then(|node| node.replica.as_mut()).unwrap().close().unwrap();
    world.kill(1, false);
    let disk = world.nodes[&1].disk.clone();
    let good = disk.open().scan().unwrap();
    let opens = || Replica::open(Box::new(disk.open()), Options::new(99)).map(|it| it.is_some());
    assert!(opens().unwrap());
    for (key, value) in &good {
        let mut flipped = value.clone();
        *flipped.last_mut().unwrap() ^= 1;
        disk.damage(key, Some(flipped));
        let error = opens().unwrap_err();
        assert!(matches!(&error, MetadataError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("sheaf meta check"), "{error}");
        // A missing object cannot be told from one that was dropped; all else can.
        if !matches!(key[0], b'o' | b'r') {
            disk.damage(key, None);
            assert!(opens().is_err(), "{:?}", String::from_utf8_lossy(key));
        }
        disk.damage(key, Some(value.clone()));
    }
    assert!(opens().unwrap());
    disk.damage(b"x", Some(crate::metadata::frame::wrap(b"x", b"")));
    assert!(opens().is_err(), "a key of a newer version is not passed over");
}

#[test]
fn a_command_of_a_newer_version_stops_the_replica() {
    let changes = [
        r#"{"rename":{"from":"a","to":"b"}}"#,
        r#"{"drop":{"object":{"setting":{"name":"a"}},"if_missing_keep":true,"cascade":false,"unless":"b"}}"#,
    ];
    for change in changes {
        let mut world = World::new(1, &[1]);
        world.settle();
        let status = world.statuses().remove(0);
        world.kill(1, false);
        let disk = world.nodes[&1].disk.clone();
        let command = format!(r#"{{"id":{{"client":1,"sequence":1}},"since":1,"changes":[{change}]}}"#);
        let entry = raft::eraftpb::Entry {
            index: status.last + 1,
            term: status.term,
            data: command.into_bytes().into(),
            ..Default::default()
        };
        let mut batch = DiskBatch::default();
        batch.append(&[entry], status.last);
        Disk::new(Box::new(disk.open())).write(batch, true).unwrap();
        let mut replica = Replica::open(Box::new(disk.open()), Options::new(99)).unwrap().unwrap();
        let error = replica.advance(&mut |_| {}).unwrap_err();
        assert!(matches!(error, MetadataError::UnknownCommand { index, .. } if index == status.last + 1), "{error}");
        assert_eq!(replica.state().read().applied(), status.applied, "nothing is passed over");
    }
}
