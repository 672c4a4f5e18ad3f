//! One case of recovery each, by hand. Schedules of everything at once: `simulation.rs`.

use sheaf_common::QueryId;

use super::*;

const QUERY: QueryId = QueryId(1);

fn worker_lost() -> WireError {
    WireError::new(ErrorCode::WorkerLost, "worker is lost").retryable()
}

fn unreadable() -> WireError {
    WireError::new(ErrorCode::FileUnreadable, "no answer").retryable()
}

fn stage(stage: u32, inputs: &[u32], workers: &[u32], is_determinate: bool) -> StageShape {
    let input = |it: &u32| InputShape { stage: StageId(*it), is_dealt: false };
    StageShape {
        stage: StageId(stage),
        is_determinate,
        has_effects: false,
        inputs: inputs.iter().map(input).collect(),
        workers: workers.iter().copied().map(WorkerKey).collect(),
    }
}

fn query(stages: Vec<StageShape>, root: u32, limits: Limits, n_workers: u32) -> Machine {
    let shape = QueryShape { query: QUERY, stages, root: vec![StageId(root)] };
    Machine::new(shape, limits, (0..n_workers).map(WorkerKey)).unwrap()
}

/// Stage 1 scans on workers 0 and 1, stage 2 joins on workers 0 and 1, the root reads stage 2; worker 2 is spare.
fn two_stages(is_determinate: bool) -> Machine {
    let stages = vec![stage(1, &[], &[0, 1], is_determinate), stage(2, &[1], &[0, 1], is_determinate)];
    let mut machine = query(stages, 2, Limits::default(), 3);
    let started = machine.handle(Event::Started);
    assert_eq!(shown(&started), "1.0.0@0 1.1.0@1 2.0.0@0 2.1.0@1 root");
    for (stage, task) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        assert_eq!(machine.handle(Event::Accepted { attempt: id(stage, task, 0) }), []);
    }
    machine
}

fn id(stage: u32, task: u32, attempt: u32) -> TaskId {
    TaskId { query: QUERY, stage: StageId(stage), task, attempt }
}

fn name(attempt: &TaskId) -> String {
    format!("{}.{}.{}", attempt.stage, attempt.task, attempt.attempt)
}

/// `stage.task.attempt@worker` for a submit, with a sign before it for what ends one.
fn shown(actions: &[Action]) -> String {
    let one = |action: &Action| match action {
        Action::Submit(it) => format!("{}@{}", name(&it.attempt), it.worker.0),
        Action::Abort { attempt, .. } => format!("!{}", name(attempt)),
        Action::Release { attempt, .. } => format!("-{}", name(attempt)),
        Action::EndRetention { attempt, .. } => format!("~{}", name(attempt)),
        Action::Redirect { from, to, .. } => format!("{}>{}", name(from), name(to)),
        Action::StopRoot => "!root".to_owned(),
        Action::StartRoot { .. } => "root".to_owned(),
        Action::AwaitWorker { wait } => format!("await{wait}"),
        Action::Succeed => "done".to_owned(),
        Action::Fail { error } => format!("error: {error}"),
    };
    actions.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(machine: &mut Machine, event: Event, actions: &str) {
    assert_eq!(shown(&machine.handle(event)), actions);
}

fn finish(machine: &mut Machine, stage: u32, task: u32, attempt: u32, actions: &str) {
    check(machine, Event::Finished { attempt: id(stage, task, attempt) }, actions);
}

fn fail(stage: u32, task: u32, attempt: u32, cause: Cause, error: WireError) -> Event {
    Event::Failed { attempt: id(stage, task, attempt), cause, error }
}

/// The first attempt of the task failed by itself, and somebody read that.
fn producer(stage: u32, task: u32) -> Cause {
    Cause::Producer { attempt: id(stage, task, 0), unread: None }
}

fn lose(worker: u32) -> Event {
    Event::WorkerLost { worker: WorkerKey(worker), error: worker_lost() }
}

#[test]
fn what_all_consumers_read_is_released() {
    let mut machine = two_stages(true);
    finish(&mut machine, 1, 0, 0, "");
    finish(&mut machine, 1, 1, 0, "");
    finish(&mut machine, 2, 0, 0, "");
    finish(&mut machine, 2, 1, 0, "-1.0.0 -1.1.0");
    check(&mut machine, Event::RootFinished, "done");
    assert_eq!((machine.state(), machine.n_restarts()), (QueryState::Succeeded, 0));
    check(&mut machine, lose(0), "");
}

#[test]
fn the_users_error_ends_the_query_at_once() {
    let mut machine = two_stages(true);
    let error = WireError::new(ErrorCode::DivisionByZero, "divide by zero");
    check(&mut machine, fail(1, 0, 0, Cause::Itself, error), "error: divide by zero");
    assert_eq!(machine.state(), QueryState::Failed);
}

#[test]
fn complete_output_that_is_held_is_not_computed_again() {
    let mut machine = two_stages(true);
    finish(&mut machine, 1, 0, 0, "");
    finish(&mut machine, 1, 1, 0, "");
    finish(&mut machine, 2, 0, 0, "");
    // The failed attempt alone, elsewhere; and the root, which had read from it.
    let event = fail(2, 1, 0, Cause::Itself, unreadable());
    check(&mut machine, event, "!root 2.1.1@0 root");
}

#[test]
fn lost_output_is_computed_again_only_while_it_is_needed() {
    let mut machine = two_stages(true);
    finish(&mut machine, 1, 0, 0, "");
    finish(&mut machine, 1, 1, 0, "");
    finish(&mut machine, 2, 1, 0, "");
    // Task 1 of stage 2 is done and lost: needed by the root. Task 0 of it still reads what worker 1 held.
    check(&mut machine, lose(1), "!2.0.0 !root 1.1.1@0 2.0.1@0 2.1.1@2 root");
}

#[test]
fn consumers_that_finished_keep_what_a_determinate_stage_gave_them() {
    let mut machine = two_stages(true);
    finish(&mut machine, 1, 0, 0, "");
    finish(&mut machine, 1, 1, 0, "");
    finish(&mut machine, 2, 0, 0, "");
    let event = fail(2, 1, 0, producer(1, 0), unreadable());
    check(&mut machine, event, "!root 1.0.1@1 2.1.1@1 root");
}

#[test]
fn consumers_that_finished_begin_again_when_an_indeterminate_stage_does() {
    let mut machine = two_stages(false);
    finish(&mut machine, 1, 0, 0, "");
    finish(&mut machine, 1, 1, 0, "");
    finish(&mut machine, 2, 0, 0, "");
    let event = fail(2, 1, 0, producer(1, 0), unreadable());
    check(&mut machine, event, "!2.0.0 !root 1.0.1@1 2.0.1@0 2.1.1@1 root");
}

#[test]
fn after_rows_went_out_a_loss_is_final() {
    let mut machine = two_stages(true);
    check(&mut machine, Event::RowsOut, "~1.0.0 ~1.1.0 ~2.0.0 ~2.1.0");
    let error = "error: rows had been sent when a part of the result was lost: worker is lost";
    check(&mut machine, lose(0), error);
}

#[test]
fn after_rows_went_out_a_loss_of_what_nobody_reads_is_none() {
    let mut machine = two_stages(true);
    for (stage, task) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        machine.handle(Event::Finished { attempt: id(stage, task, 0) });
    }
    check(&mut machine, Event::RowsOut, "~2.0.0 ~2.1.0");
    check(&mut machine, lose(2), "");
    check(&mut machine, Event::RootFinished, "done");
}

#[test]
fn two_failed_reads_bring_the_consumer_to_its_producer() {
    let mut machine = two_stages(true);
    finish(&mut machine, 1, 0, 0, "");
    finish(&mut machine, 1, 1, 0, "");
    let link = |attempt| fail(2, 0, attempt, Cause::Link(id(1, 1, 0)), unreadable());
    check(&mut machine, link(0), "!root 2.0.1@0 root");
    check(&mut machine, link(1), "!root 2.0.2@1 root");
}

#[test]
fn two_attempts_lost_with_their_worker_are_enough() {
    let mut machine = two_stages(true);
    check(&mut machine, lose(1), "!2.0.0 !root 1.1.1@2 2.0.1@0 2.1.1@2 root");
    machine.handle(Event::Accepted { attempt: id(1, 1, 1) });
    let error = "error: 2 attempts of task 1 of stage 1 ended with the loss of their worker, a third is not risked: \
                 worker is lost";
    check(&mut machine, lose(2), error);
}

#[test]
fn an_attempt_that_its_worker_never_took_is_not_to_blame() {
    let mut machine = two_stages(true);
    check(&mut machine, lose(1), "!2.0.0 !root 1.1.1@2 2.0.1@0 2.1.1@2 root");
    // It was dead already when the task was sent.
    check(&mut machine, lose(2), "!2.0.1 !root 1.1.2@0 2.0.2@0 2.1.2@0 root");
}

#[test]
fn without_a_worker_a_query_waits_for_one_and_not_for_ever() {
    let mut machine = two_stages(true);
    check(&mut machine, lose(2), "");
    check(&mut machine, lose(0), "!2.1.0 !root 1.0.1@1 2.0.1@1 2.1.1@1 root");
    finish(&mut machine, 1, 0, 1, "");
    finish(&mut machine, 1, 1, 0, "");
    finish(&mut machine, 2, 0, 1, "");
    finish(&mut machine, 2, 1, 1, "-1.0.1 -1.1.0");
    check(&mut machine, lose(1), "!root await1");
    check(&mut machine, Event::WorkerJoined { worker: WorkerKey(3) }, "1.0.2@3 1.1.1@3 2.0.2@3 2.1.2@3 root");
    // The clock of a wait that is over.
    check(&mut machine, Event::WaitOver { wait: 1 }, "");
    for (stage, task, attempt) in [(1, 0, 2), (1, 1, 1), (2, 0, 2), (2, 1, 2)] {
        machine.handle(Event::Finished { attempt: id(stage, task, attempt) });
    }
    check(&mut machine, lose(3), "!root await2");
    let over = machine.handle(Event::WaitOver { wait: 2 });
    assert_eq!(shown(&over), "error: no worker is left to run the query, after: worker is lost");
    assert!(!may_run_again(&over), "workers fell while they ran it");
}

fn may_run_again(actions: &[Action]) -> bool {
    matches!(actions, [.., Action::Fail { error }] if error.retryable)
}

#[test]
fn a_query_whose_workers_left_without_it_may_run_elsewhere() {
    let stages = vec![stage(1, &[], &[0, 1], true)];
    let mut machine = query(stages, 1, Limits::default(), 2);
    check(&mut machine, Event::Started, "1.0.0@0 1.1.0@1 root");
    assert_eq!(machine.handle(Event::Accepted { attempt: id(1, 0, 0) }), []);
    // One finished its task and left, the other never began.
    finish(&mut machine, 1, 0, 0, "");
    machine.handle(lose(1));
    machine.handle(lose(0));
    let over = machine.handle(Event::WaitOver { wait: 1 });
    assert!(shown(&over).contains("no worker is left") && may_run_again(&over), "{over:?}");
}

#[test]
fn a_task_has_so_many_attempts_and_no_more() {
    let mut machine = two_stages(true);
    for attempt in 0..3 {
        let again = machine.handle(fail(1, 0, attempt, Cause::Itself, unreadable()));
        assert!(shown(&again).contains(&format!("1.0.{}@", attempt + 1)), "{again:?}");
    }
    let last = shown(&machine.handle(fail(1, 0, 3, Cause::Itself, unreadable())));
    assert_eq!(last, "error: gave up after 4 attempts of task 0 of stage 1: no answer");
}

#[test]
fn late_and_doubled_news_change_nothing() {
    let mut machine = two_stages(true);
    let failed = fail(1, 0, 0, Cause::Itself, unreadable());
    let again = "!2.0.0 !2.1.0 !root 1.0.1@2 2.0.1@0 2.1.1@1 root";
    check(&mut machine, failed.clone(), again);
    check(&mut machine, failed, "");
    finish(&mut machine, 2, 0, 0, "");
    check(&mut machine, fail(2, 1, 0, producer(1, 0), unreadable()), "");
    check(&mut machine, lose(9), "");
    let of_another_query = TaskId { query: QueryId(2), ..id(1, 0, 1) };
    check(&mut machine, Event::Finished { attempt: of_another_query }, "");
    check(&mut machine, Event::Finished { attempt: id(9, 9, 9) }, "");
}

#[test]
fn a_producer_that_its_one_reader_released_holds_up_nobody() {
    let dealt = |stage| InputShape { stage: StageId(stage), is_dealt: true };
    let reader = StageShape { inputs: vec![dealt(1)], ..stage(2, &[], &[0, 1], true) };
    let mut machine = query(vec![stage(1, &[], &[0, 1], true), reader], 2, Limits::default(), 2);
    machine.handle(Event::Started);
    finish(&mut machine, 1, 0, 0, "");
    finish(&mut machine, 1, 1, 0, "");
    finish(&mut machine, 2, 0, 0, "-1.0.0");
    check(&mut machine, fail(2, 1, 0, Cause::Itself, unreadable()), "!root 2.1.1@0 root");
}

#[test]
fn a_failure_that_was_passed_on_is_charged_to_the_first() {
    let mut machine = two_stages(true);
    // Task 0 of stage 2 read it and failed, the root read that, and the root is heard first.
    let event = Event::RootFailed { cause: producer(1, 0), error: unreadable() };
    check(&mut machine, event, "!root !2.0.0 !2.1.0 1.0.1@2 2.0.1@0 2.1.1@1 root");
    check(&mut machine, fail(2, 0, 0, producer(1, 0), unreadable()), "");
    check(&mut machine, fail(1, 0, 0, Cause::Itself, unreadable()), "");
}

#[test]
fn a_link_that_was_lost_further_down_counts_as_one() {
    let mut machine = two_stages(true);
    finish(&mut machine, 1, 0, 0, "");
    finish(&mut machine, 1, 1, 0, "");
    let passed_on = |attempt| {
        let cause = Cause::Producer { attempt: id(2, 0, attempt), unread: Some(id(1, 1, 0)) };
        Event::RootFailed { cause, error: unreadable() }
    };
    check(&mut machine, passed_on(0), "!root 2.0.1@0 root");
    check(&mut machine, passed_on(1), "!root 2.0.2@1 root");
}

#[test]
fn a_worker_that_the_root_cannot_read_is_given_up() {
    let mut machine = two_stages(true);
    let link = || Event::RootFailed { cause: Cause::Link(id(2, 0, 0)), error: unreadable() };
    check(&mut machine, link(), "!root root");
    check(&mut machine, link(), "!root !2.1.0 1.0.1@2 2.0.1@1 2.1.1@1 root");
}

#[test]
fn what_was_made_of_another_version_is_given_up_by_those_who_read_it() {
    let dealt = InputShape { stage: StageId(2), is_dealt: true };
    let last = StageShape { inputs: vec![dealt], ..stage(3, &[], &[0, 1], false) };
    let stages = vec![stage(1, &[], &[0], false), stage(2, &[1], &[0, 1], false), last];
    let mut machine = query(stages, 3, Limits::default(), 2);
    machine.handle(Event::Started);
    finish(&mut machine, 1, 0, 0, "");
    finish(&mut machine, 2, 0, 0, "");
    finish(&mut machine, 2, 1, 0, "-1.0.0");
    finish(&mut machine, 3, 0, 0, "-2.0.0");
    finish(&mut machine, 3, 1, 0, "-2.1.0");
    // The output of task 1 of stage 3 is lost. To make it again takes another version of stage 1, which must not meet
    // what task 0 made of the first: not even where nobody else reads task 0 of stage 2.
    let event = Event::RootFailed { cause: producer(3, 1), error: unreadable() };
    check(&mut machine, event, "!root !3.0.0 1.0.1@0 2.0.1@0 2.1.1@1 3.0.1@0 3.1.1@0 root");
}

#[test]
fn a_worker_heard_to_be_lost_before_it_joined_never_joins() {
    let mut machine = query(vec![stage(1, &[], &[0], true)], 1, Limits::default(), 0);
    check(&mut machine, Event::Started, "await1");
    check(&mut machine, lose(7), "");
    check(&mut machine, Event::WorkerJoined { worker: WorkerKey(7) }, "");
    check(&mut machine, Event::WorkerJoined { worker: WorkerKey(8) }, "1.0.0@8 root");
}

#[test]
fn a_query_and_a_stage_have_so_many_restarts_and_no_more() {
    let mut machine = two_stages(true);
    let failed = || Event::RootFailed { cause: Cause::Itself, error: unreadable() };
    for _ in 0..10 {
        check(&mut machine, failed(), "!root root");
    }
    check(&mut machine, failed(), "error: gave up after 10 restarts of the query: no answer");
    let stages = vec![stage(1, &[], &[0], true), stage(2, &[1], &[1], true)];
    let mut machine = query(stages, 2, Limits { stage_restarts_max: 1, ..Limits::default() }, 2);
    machine.handle(Event::Started);
    check(&mut machine, fail(1, 0, 0, Cause::Itself, unreadable()), "!2.0.0 !root 1.0.1@1 2.0.1@1 root");
    let error = "error: gave up after 1 restarts of stage 2: no answer";
    check(&mut machine, fail(1, 0, 1, Cause::Itself, unreadable()), error);
}

#[test]
fn a_query_that_was_stopped_does_nothing_more() {
    let mut machine = two_stages(true);
    let error = WireError::new(ErrorCode::Cancelled, "stopped");
    check(&mut machine, Event::Stopped { error }, "error: stopped");
    check(&mut machine, Event::WorkerJoined { worker: WorkerKey(5) }, "");
    check(&mut machine, Event::RootFinished, "");
}

fn straggles(stage: u32, task: u32) -> Event {
    Event::Straggles { attempt: id(stage, task, 0) }
}

fn redirected(stage: u32, task: u32, outcome: Redirected) -> Event {
    Event::Redirected { attempt: id(stage, task, 0), outcome }
}

/// The scan of task 1 is far behind and has a second attempt on worker 2, which is complete.
fn overtaken() -> Machine {
    let mut machine = two_stages(true);
    finish(&mut machine, 1, 0, 0, "");
    check(&mut machine, straggles(1, 1), "1.1.1@2");
    machine.handle(Event::Accepted { attempt: id(1, 1, 1) });
    finish(&mut machine, 1, 1, 1, "1.1.0>1.1.1");
    machine
}

#[test]
fn readers_are_pointed_at_the_attempt_that_is_complete_first() {
    let mut machine = overtaken();
    check(&mut machine, redirected(1, 1, Redirected::Done), "");
    assert_eq!((machine.n_restarts(), machine.n_speculated()), (0, (1, 1)));
    assert!(machine.versions().any(|it| it == id(1, 1, 1)));
    // They are what they were told to read, so that nothing of them begins again for what befalls others.
    check(&mut machine, Event::RootFailed { cause: Cause::Itself, error: unreadable() }, "!root root");
    finish(&mut machine, 2, 0, 0, "");
    finish(&mut machine, 2, 1, 0, "-1.0.0 -1.1.1");
    check(&mut machine, Event::RootFinished, "done");
}

#[test]
fn readers_may_be_through_before_the_answer_to_a_redirect_comes() {
    let mut machine = overtaken();
    finish(&mut machine, 2, 0, 0, "");
    finish(&mut machine, 2, 1, 0, "-1.0.0 !1.1.0 -1.1.1");
    assert_eq!(machine.n_speculated(), (1, 1));
    let mut machine = query(vec![stage(1, &[], &[0, 1], true)], 1, Limits::default(), 3);
    machine.handle(Event::Started);
    (0..2).for_each(|task| drop(machine.handle(Event::Accepted { attempt: id(1, task, 0) })));
    finish(&mut machine, 1, 0, 0, "");
    check(&mut machine, straggles(1, 1), "1.1.1@0");
    finish(&mut machine, 1, 1, 1, "1.1.0>1.1.1");
    check(&mut machine, Event::RootFinished, "!1.1.0 done");
    assert_eq!(machine.n_speculated(), (1, 1));
    assert!(machine.versions().any(|it| it == id(1, 1, 1)));
    check(&mut machine, redirected(1, 1, Redirected::Done), "");
}

#[test]
fn readers_that_were_pointed_at_an_attempt_begin_again_without_it() {
    let mut machine = overtaken();
    check(&mut machine, redirected(1, 1, Redirected::Done), "");
    check(&mut machine, lose(2), "!2.0.0 !2.1.0 !root 1.1.2@0 2.0.1@0 2.1.1@1 root");
}

#[test]
fn an_attempt_that_was_read_or_is_through_keeps_its_readers() {
    let mut machine = overtaken();
    check(&mut machine, redirected(1, 1, Redirected::Refused), "!1.1.1");
    finish(&mut machine, 1, 1, 0, "");
    let mut machine = two_stages(true);
    finish(&mut machine, 1, 0, 0, "");
    check(&mut machine, straggles(1, 1), "1.1.1@2");
    finish(&mut machine, 1, 1, 0, "!1.1.1");
    finish(&mut machine, 1, 1, 1, "");
    assert_eq!(machine.n_speculated(), (1, 0));
    // There is no third.
    check(&mut machine, straggles(1, 1), "");
}

#[test]
fn readers_of_whom_nothing_is_known_begin_again() {
    let mut machine = overtaken();
    let again = "!1.1.0 !2.0.0 !2.1.0 !root 2.0.1@0 2.1.1@1 root";
    check(&mut machine, redirected(1, 1, Redirected::Unknown), again);
    check(&mut machine, redirected(1, 1, Redirected::Done), "");
    // The second attempt went meanwhile, and the readers had been pointed at it.
    let mut machine = overtaken();
    check(&mut machine, lose(2), "");
    let again = "!1.1.0 !2.0.0 !2.1.0 !root 1.1.2@1 2.0.1@0 2.1.1@1 root";
    check(&mut machine, redirected(1, 1, Redirected::Done), again);
}

#[test]
fn a_second_attempt_takes_the_place_of_a_first_that_fails() {
    let mut machine = two_stages(true);
    finish(&mut machine, 1, 0, 0, "");
    check(&mut machine, straggles(1, 1), "1.1.1@2");
    // No matter what ends it, it is no failure of the query.
    let mut without = two_stages(true);
    finish(&mut without, 1, 0, 0, "");
    check(&mut without, straggles(1, 1), "1.1.1@2");
    let error = WireError::new(ErrorCode::DivisionByZero, "divide by zero");
    check(&mut without, fail(1, 1, 1, Cause::Itself, error), "");
    assert_eq!(without.n_restarts(), 0);
    machine.handle(Event::Accepted { attempt: id(1, 1, 1) });
    check(&mut machine, lose(1), "!2.0.0 !root 2.0.1@0 2.1.1@0 root");
    let error = "error: 2 attempts of task 1 of stage 1 ended with the loss of their worker, a third is not risked: \
                 worker is lost";
    check(&mut machine, lose(2), error);
}

#[test]
fn only_who_may_has_a_second_attempt() {
    let mut machine = two_stages(false);
    finish(&mut machine, 1, 0, 0, "");
    check(&mut machine, straggles(1, 1), "");
    let mut machine = two_stages(true);
    assert_eq!(machine.speculation_candidates().len(), 2, "the second stage waits for the first");
    check(&mut machine, straggles(2, 1), "");
    finish(&mut machine, 1, 0, 0, "");
    finish(&mut machine, 1, 1, 0, "");
    finish(&mut machine, 2, 0, 0, "");
    let of_second = machine.speculation_candidates();
    assert_eq!(of_second.len(), 1);
    assert_eq!((of_second[0].attempt, of_second[0].n_tasks), (id(2, 1, 0), 2));
    assert_eq!(of_second[0].inputs, [id(1, 0, 0), id(1, 1, 0)]);
    assert_eq!(of_second[0].finished, [(id(2, 0, 0), vec![id(1, 0, 0), id(1, 1, 0)])]);
    check(&mut machine, straggles(2, 1), "2.1.1@0");
    // Rows go out: the race goes on, and what it reads is kept.
    check(&mut machine, Event::RowsOut, "");
    check(&mut machine, straggles(2, 0), "");
    let writers = StageShape { has_effects: true, ..stage(1, &[], &[0, 1], true) };
    let mut machine = query(vec![writers], 1, Limits::default(), 3);
    machine.handle(Event::Started);
    machine.handle(Event::Accepted { attempt: id(1, 1, 0) });
    assert_eq!(machine.speculation_candidates(), []);
    check(&mut machine, straggles(1, 1), "");
    let mut alone = query(vec![stage(1, &[], &[0], true)], 1, Limits::default(), 1);
    alone.handle(Event::Started);
    alone.handle(Event::Accepted { attempt: id(1, 0, 0) });
    check(&mut alone, straggles(1, 0), "");
}

#[test]
fn a_stage_must_come_after_what_it_reads() {
    let refused = |stages: Vec<StageShape>, root: u32| {
        let shape = QueryShape { query: QUERY, stages, root: vec![StageId(root)] };
        Machine::new(shape, Limits::default(), []).unwrap_err()
    };
    let order = ShapeError::Order { reader: StageId(1), stage: StageId(2) };
    assert_eq!(refused(vec![stage(1, &[2], &[0], true), stage(2, &[], &[0], true)], 1), order);
    assert_eq!(refused(vec![stage(1, &[], &[], true)], 1), ShapeError::NoTask(StageId(1)));
    assert_eq!(refused(vec![stage(1, &[], &[0], true)], 2), ShapeError::Root(StageId(2)));
    let twice = vec![stage(1, &[], &[0], true), stage(1, &[], &[0], true)];
    assert_eq!(refused(twice, 1), ShapeError::Twice(StageId(1)));
}
