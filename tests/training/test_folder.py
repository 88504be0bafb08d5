import pytest

from sparsejax.training import init_run_dir


def test_a_folder_belongs_to_one_configuration(tmp_path):
    folder = tmp_path / "run"
    init_run_dir(folder, {"kappa": 10, "seeds": (1, 2)}, resume=False)
    init_run_dir(folder, {"kappa": 10, "seeds": [1, 2]}, resume=True)
    with pytest.raises(ValueError, match=r"another configuration \(kappa: 10 there, 11 here\)"):
        init_run_dir(folder, {"kappa": 11, "seeds": [1, 2]}, resume=True)
    with pytest.raises(ValueError, match="decay: None there, 0.1 here"):
        init_run_dir(folder, {"kappa": 10, "seeds": [1, 2], "decay": 0.1}, resume=True)


def test_a_run_that_is_there_must_be_resumed(tmp_path):
    folder = init_run_dir(tmp_path / "run", {"kappa": 10}, resume=False)
    (folder / "checkpoints" / "states" / "5").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"already holds a run .* resume it \(--resume\)"):
        init_run_dir(folder, {"kappa": 10}, resume=False)
    assert init_run_dir(folder, {"kappa": 10}, resume=True) == folder


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="folder must be a folder; .*run is a file"):
        init_run_dir(tmp_path / "run", {}, resume=False)


def test_checkpoints_of_unknown_origin_are_not_touched(tmp_path):
    (tmp_path / "checkpoints" / "states" / "5").mkdir(parents=True)
    with pytest.raises(ValueError, match="unknown configuration"):
        init_run_dir(tmp_path, {}, resume=True)
