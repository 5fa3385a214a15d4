"""What goes wrong with runs, model folders and predictions, and the test that holds what follows.

test_reliability_docs.py requires that each of these tests is there.
"""

from __future__ import annotations

RUNS, STORE, INFER = "tests/train", "tests/store", "tests/infer"

HELD = {
    "Training and adding": (
        (
            "kill -9 at any moment",
            ("tests/scripts/test_kill.py", "test_twenty_kills_at_random_moments_lose_nothing"),
            "the last checkpoint; `--resume` goes on from it to the same end, bit for bit",
        ),
        (
            "killed, or out of memory, without a word",
            (f"{RUNS}/test_running.py", "test_a_killed_run_is_spoken_of_once_with_step_and_memory"),
            "the next run says at which step, and how much memory it was to need",
        ),
        (
            "Ctrl-C or SIGTERM",
            (
                f"{RUNS}/test_interrupt.py",
                "test_a_signal_in_a_step_ends_the_run_after_it_with_a_checkpoint",
            ),
            "the step is finished, a checkpoint written; exit 130 or 143",
        ),
        (
            "a second signal",
            (
                f"{RUNS}/test_interrupt.py",
                "test_a_second_signal_in_a_step_leaves_the_checkpoint_before_it",
            ),
            "an end at once; the checkpoint before it is whole",
        ),
        (
            "a loss or gradient that is no number, or far too high",
            (f"{RUNS}/test_guard.py", "test_a_skipped_step_moves_nothing_and_is_said"),
            "the step is skipped, and said; no weight moves",
        ),
        (
            "three of them in a row",
            (
                f"{RUNS}/test_guard.py",
                "test_after_three_the_last_good_state_is_restored_and_the_rate_halved",
            ),
            "the last good state, at half the learning rate",
        ),
        (
            "a damaged checkpoint",
            (
                f"{RUNS}/test_checkpoint.py",
                "test_the_newest_whole_one_is_taken_and_the_others_are_named",
            ),
            "the newest whole one of three is taken, and the others are named",
        ),
        (
            "code in a checkpoint",
            (f"{RUNS}/test_checkpoint.py", "test_code_in_a_checkpoint_is_not_run"),
            "it is not run; one line",
        ),
        (
            "another recipe, other data",
            (f"{RUNS}/test_resume.py", "test_changed_files_of_either_side_are_refused"),
            "`--resume` is refused in one line",
        ),
        (
            "a full disk",
            (
                f"{RUNS}/test_full_disk.py",
                "test_wherever_the_disk_is_full_the_run_goes_on_later_to_the_same_end",
            ),
            "one line; model and checkpoint before it are whole, `--resume` goes on",
        ),
        (
            "two trainings into one model",
            (
                f"{RUNS}/test_running.py",
                "test_a_second_training_is_refused_while_the_first_one_lives",
            ),
            "the second is refused",
        ),
        (
            "an old bank or the trunk changes while a domain is added",
            (
                f"{RUNS}/test_add_domain.py",
                "test_it_refuses_to_finish_when_an_old_file_changed_meanwhile",
            ),
            "it refuses to finish; nothing is written",
        ),
    ),
    "Model folders": (
        (
            "any byte of a weight file changed",
            (f"{STORE}/test_weights.py", "test_every_byte_flipped_is_refused_or_changes_nothing"),
            "refused by name",
        ),
        (
            "a weight file cut short",
            (f"{STORE}/test_weights.py", "test_every_truncation_is_refused"),
            "refused by name",
        ),
        (
            "a pickle, a zip, NaN, a foreign trunk, another version",
            (
                f"{STORE}/test_weights.py",
                "test_a_bad_file_put_in_by_hand_is_refused_by_name_on_loading",
            ),
            "refused by name",
        ),
        (
            "a line of the ledger changed, deleted or moved",
            (f"{STORE}/test_ledger.py", "test_a_changed_line_is_named"),
            "`verify` names it and exits 1",
        ),
        (
            "a kill while the ledger is written",
            (
                f"{STORE}/test_ledger.py",
                "test_a_torn_last_line_is_tolerated_and_cut_off_by_the_next_change",
            ),
            "the torn line is cut off by the next change",
        ),
        (
            "a kill in the middle of a change",
            (f"{STORE}/test_ledger.py", "test_a_change_that_is_cut_off_is_said_and_then_undone"),
            "the old state, or the new one; `verify` says so",
        ),
    ),
    "Predictions": (
        (
            "one bad case in a folder",
            (f"{INFER}/test_work.py", "test_one_bad_case_does_not_stop_the_others"),
            "its line, the others' labels, exit 3",
        ),
        (
            "a kill at any moment",
            (
                f"{INFER}/test_work.py",
                "test_killed_between_any_two_renames_the_same_command_goes_on",
            ),
            "whole labels only; the same command goes on",
        ),
        (
            "two runs on one output folder",
            (
                f"{INFER}/test_two_runs.py",
                "test_two_runs_at_once_do_each_case_once_and_both_end_well",
            ),
            "each case is done once",
        ),
        (
            "one of them is killed",
            (
                f"{INFER}/test_two_runs.py",
                "test_a_case_where_a_run_is_killed_is_done_by_the_other_one_and_no_case_twice",
            ),
            "the other one does its case",
        ),
        (
            "a label that would come out otherwise",
            (
                f"{INFER}/test_work.py",
                "test_a_label_that_would_not_come_out_the_same_is_refused_replaced_or_kept",
            ),
            "refused, unless `--overwrite` or `--skip` says what to do",
        ),
        (
            "too little memory",
            (f"{INFER}/test_work.py", "test_a_case_too_large_for_the_memory_is_named_with_a_mend"),
            "the case is named, with the mend",
        ),
        (
            "a full disk",
            (
                f"{INFER}/test_work.py",
                "test_a_full_disk_ends_the_run_instead_of_failing_case_after_case",
            ),
            "one line, and the end; the labels before it are whole",
        ),
    ),
}

CHAPTERS = {
    title: [(fault, f"[{path}](../{path})", gets) for fault, (path, _), gets in rows]
    for title, rows in HELD.items()
}
