"""Plotting: names, arguments and folders. Drawing is not there yet."""
import pytest
import sparse_attention_hub.plotting as plotting
from sparse_attention_hub.plotting.generator import PlotGenerator
from sparse_attention_hub.plotting.granularity import Granularity


def test_granularity():
    assert [(g.name, g.value) for g in Granularity] == [
        ("PER_TOKEN", "per_token"), ("PER_HEAD", "per_head"), ("PER_LAYER", "per_layer")]
    assert [str(g) for g in Granularity] == ["per_token", "per_head", "per_layer"]
    assert [f"{g}" for g in Granularity] == ["per_token", "per_head", "per_layer"]
    assert [repr(g) for g in Granularity] == [
        "Granularity.PER_TOKEN", "Granularity.PER_HEAD", "Granularity.PER_LAYER"]
    assert Granularity("per_head") is Granularity.PER_HEAD


def test_package_exports():
    assert plotting.PlotGenerator is PlotGenerator
    assert plotting.Granularity is Granularity


def test_the_folder_is_created(tmp_path, monkeypatch):
    plots = PlotGenerator(str(tmp_path / "a/b"))
    assert (tmp_path / "a/b").is_dir()
    assert plots.storage_path == str(tmp_path / "a/b")
    plots.set_storage_path(str(tmp_path / "c"))
    assert (tmp_path / "c").is_dir()
    assert plots.storage_path == str(tmp_path / "c")
    PlotGenerator(storage_path=str(tmp_path / "c"))  # an existing folder is fine
    monkeypatch.chdir(tmp_path)
    assert PlotGenerator().storage_path == "./plots"
    assert (tmp_path / "plots").is_dir()


def test_a_folder_that_cannot_be_created_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    plots = PlotGenerator(str(tmp_path))
    with pytest.raises(OSError, match="file"):
        plots.set_storage_path(str(tmp_path / "file/plots"))
    assert plots.storage_path == str(tmp_path)


@pytest.mark.parametrize("granularity", ["per_token", "per_page", None, 1])
def test_unsupported_granularity(tmp_path, granularity):
    plots = PlotGenerator(str(tmp_path))
    with pytest.raises(ValueError, match="^Unsupported granularity: .*PER_TOKEN"):
        plots.generate_plot(granularity)
    with pytest.raises(ValueError, match="^Unsupported granularity: "):
        plots.generate_comparison_plot({}, granularity)


def test_a_heat_map_needs_its_matrix(tmp_path):
    plots = PlotGenerator(str(tmp_path))
    with pytest.raises(ValueError, match="^attention_matrix required in data for heatmap.*weights"):
        plots.generate_plot(Granularity.PER_HEAD, data={"weights": [1]})
    with pytest.raises(ValueError, match="^attention_matrix required in data for heatmap"):
        plots.generate_plot(Granularity.PER_HEAD, {})


@pytest.mark.parametrize("granularity, data", [
    (Granularity.PER_TOKEN, None), (Granularity.PER_TOKEN, {}), (Granularity.PER_LAYER, {"x": 1}),
    (Granularity.PER_HEAD, None), (Granularity.PER_HEAD, {"attention_matrix": [[1.0]]})])
def test_drawing_says_that_it_is_missing_and_leaves_no_file(tmp_path, granularity, data):
    plots = PlotGenerator(str(tmp_path))
    with pytest.raises(NotImplementedError, match="generate_plot does not draw yet"):
        plots.generate_plot(granularity, data, plot_type="line", title="x")
    with pytest.raises(NotImplementedError, match="generate_comparison_plot does not draw yet"):
        plots.generate_comparison_plot(data_dict={"a": data}, granularity=granularity)
    assert list(tmp_path.iterdir()) == []
