"""What a cut upload leaves goes on demand; what is being written, or is not ours, stays."""

import pytest

from clinscale import registry


@pytest.fixture
def cut(tracking, run, hf_folder, monkeypatch):
    """A registration that lost its process when the files had arrived."""

    def gone(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking.client, "finalize_logged_model", gone)
        with pytest.raises(KeyboardInterrupt):
            registry.register(tracking, run.id, hf_folder, name="radiology", tags={})
    return hf_folder


def stored(folder):
    return [path for path in (folder / "mlartifacts").rglob("*") if path.is_file()]


def test_a_cut_upload_is_found_with_its_size_and_removed_with_its_files(tracking, run, cut, tmp_path):
    assert list(registry.cut_uploads(tracking)) == [], "it may still be running"
    [upload] = registry.cut_uploads(tracking, older_than_s=0)
    assert (upload.name, upload.run_id) == ("radiology", run.id)
    assert upload.bytes == sum(path.stat().st_size for path in stored(tmp_path)) > 10_000
    version = registry.register(tracking, run.id, cut, name="radiology", tags={})
    registry.remove_upload(tracking, upload)
    assert list(registry.cut_uploads(tracking, older_than_s=0)) == []
    assert registry.pull(tracking, version.label, tmp_path / "out").digest == version.digest


def test_uploads_of_others_stay(tracking):
    experiment = tracking.experiment_id("theirs")
    run = tracking.client.create_run(experiment)
    tracking.client.create_logged_model(experiment, name="theirs", source_run_id=run.info.run_id)
    tracking.client.create_logged_model(experiment, name="without a run")
    assert list(registry.cut_uploads(tracking, older_than_s=0)) == []
