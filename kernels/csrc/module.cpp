// The Python module edge_ad.kernels._cpp. Arrays are contiguous and of the type named, as edge_ad.kernels.cpp_ops
// makes them; the GIL is free while the kernels run.
#include "kernels.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;
using edge_ad::Index;
using Floats = py::array_t<float, py::array::c_style>;
using Ints = py::array_t<std::int32_t, py::array::c_style>;

namespace {

edge_ad::Layer as_layer(const Floats& teacher, const Floats& student, bool channels_last) {
    if (teacher.ndim() != 4 || student.ndim() != 4 || teacher.size() != student.size())
        throw py::value_error("features: expected two arrays [B,C,h,w] of one shape");
    const int first = channels_last ? 1 : 2;
    return {teacher.data(), student.data(), teacher.shape(channels_last ? 3 : 1), teacher.shape(first),
            teacher.shape(first + 1), channels_last};
}

Floats cosine_map(const Floats& teacher, const Floats& student, bool channels_last, double eps) {
    const edge_ad::Layer layer = as_layer(teacher, student, channels_last);
    Floats map({teacher.shape(0), layer.height, layer.width});
    const Index batch = teacher.shape(0);
    float* out = map.mutable_data();
    py::gil_scoped_release free;
    edge_ad::cosine_map(layer, batch, eps, out);
    return map;
}

Floats head_input(const Floats& teacher, const Floats& student, double eps) {
    const edge_ad::Layer layer = as_layer(teacher, student, false);
    Floats product({teacher.shape(0), layer.channels, layer.height, layer.width});
    const Index batch = teacher.shape(0), pixels = layer.height * layer.width;
    float* out = product.mutable_data();
    py::gil_scoped_release free;
    edge_ad::head_input(layer.teacher, layer.student, batch, layer.channels, pixels, eps, out);
    return product;
}

Floats cosine_map_gradient(const Floats& teacher, const Floats& student, const Floats& grad, double eps) {
    const edge_ad::Layer layer = as_layer(teacher, student, false);
    const Index batch = teacher.shape(0), pixels = layer.height * layer.width;
    if (grad.size() != batch * pixels) throw py::value_error("grad: expected [B,h,w]");
    Floats gradient({batch, layer.channels, layer.height, layer.width});
    const float* of_map = grad.data();
    float* out = gradient.mutable_data();
    py::gil_scoped_release free;
    edge_ad::cosine_map_gradient(layer.teacher, layer.student, of_map, batch, layer.channels, pixels, eps, out);
    return gradient;
}

Floats upsample(const Floats& maps, Index height, Index width) {
    const Index batch = maps.shape(0), h = maps.shape(1), w = maps.shape(2);
    Floats result({batch, height, width});
    const float* in = maps.data();
    float* out = result.mutable_data();
    py::gil_scoped_release free;
    edge_ad::upsample(in, batch, h, w, height, width, out);
    return result;
}

Floats topk_mean(const Floats& scores, Index k) {
    const Index batch = scores.shape(0), pixels = scores.shape(1);
    Floats mean({batch});
    const float* in = scores.data();
    float* out = mean.mutable_data();
    py::gil_scoped_release free;
    edge_ad::topk_mean(in, batch, pixels, k, out);
    return mean;
}

py::tuple fused_score(const std::vector<Floats>& teacher, const std::vector<Floats>& student,
                      const std::vector<bool>& channels_last, Index height, Index width, const std::string& combine,
                      std::vector<double> weights, std::vector<float> gaussian, Index k, bool want_pixel_scores,
                      double eps) {
    std::vector<edge_ad::Layer> layers;
    for (std::size_t i = 0; i < teacher.size(); ++i)
        layers.push_back(as_layer(teacher[i], student.at(i), channels_last.at(i)));
    const edge_ad::Combine how = combine == "mean"  ? edge_ad::Combine::mean
                                 : combine == "sum" ? edge_ad::Combine::sum
                                                    : edge_ad::Combine::product;
    const edge_ad::Score score{height, width, how, std::move(weights), std::move(gaussian), k, eps};
    const Index batch = teacher.at(0).shape(0);
    Floats pixels(want_pixel_scores ? std::vector<Index>{batch, height, width} : std::vector<Index>{0});
    Floats image({batch});
    float *pixel_out = want_pixel_scores ? pixels.mutable_data() : nullptr, *image_out = image.mutable_data();
    {
        py::gil_scoped_release free;
        edge_ad::fused_score(layers, batch, score, pixel_out, image_out);
    }
    return py::make_tuple(want_pixel_scores ? py::object(pixels) : py::object(py::none()), image);
}

Floats preprocess(const py::array_t<std::uint8_t>& frame, const Ints& first_x, const Ints& weight_x,
                  const Ints& first_y, const Ints& weight_y, const Floats& levels, bool bgr) {
    const Index height = frame.shape(0), width = frame.shape(1), channels = frame.ndim() == 3 ? 3 : 1;
    const Index out_height = first_y.shape(0), out_width = first_x.shape(0), stride = frame.strides(0);
    Floats result({Index{3}, out_height, out_width});
    const edge_ad::Taps across{first_x.data(), weight_x.data(), weight_x.shape(1)};
    const edge_ad::Taps down{first_y.data(), weight_y.data(), weight_y.shape(1)};
    const std::uint8_t* in = frame.data();
    const float* table = levels.data();
    float* out = result.mutable_data();
    py::gil_scoped_release free;
    edge_ad::preprocess(in, stride, height, width, channels, bgr, across, down, table, out_height, out_width, out);
    return result;
}

py::list find_defects(const Floats& scores, double threshold, Index min_area) {
    std::vector<edge_ad::Region> regions;
    {
        const float* in = scores.data();
        const Index height = scores.shape(0), width = scores.shape(1);
        py::gil_scoped_release free;
        regions = edge_ad::find_defects(in, height, width, threshold, min_area);
    }
    py::list result;
    for (const auto& r : regions) {
        const auto box = py::make_tuple(r.left, r.top, r.right - r.left, r.bottom - r.top);
        result.append(py::make_tuple(box, r.area, r.peak));
    }
    return result;
}

}  // namespace

PYBIND11_MODULE(_cpp, m) {
    m.doc() = "C++ kernels on NumPy arrays.";
    m.def("cosine_map", &cosine_map);
    m.def("cosine_map_gradient", &cosine_map_gradient);
    m.def("head_input", &head_input);
    m.def("upsample", &upsample);
    m.def("topk_mean", &topk_mean);
    m.def("fused_score", &fused_score);
    m.def("preprocess", &preprocess);
    m.def("find_defects", &find_defects);
    m.def("set_threads", &edge_ad::set_threads);
}
