# What `from mnist_sgd import ...` offers: __init__.py reads the names here, type checkers their signatures. Kept by hand.
__version__: str

from .storage import (
    NPZ as NPZ, IDX_MD5 as IDX_MD5, pack_mnist as pack_mnist, mnist_sample as mnist_sample, mnist_png as mnist_png,
    load_arrays as load_arrays, load_folder as load_folder)
from .replay import skip_draws as skip_draws, find_weights as find_weights, replay_state as replay_state
from .data import (
    show_image as show_image, show_images as show_images, load_digit as load_digit, load_pair as load_pair,
    show_mistakes as show_mistakes, moving_picture as moving_picture)
from .pixel_similarity import mnist_distance as mnist_distance, is_3 as is_3, pixel_accuracy as pixel_accuracy
from .manual_sgd import finite_difference as finite_difference, rolling_speed as rolling_speed, f as f, mse as mse, apply_step as apply_step
from .linear_model import (
    label_pair as label_pair, init_params as init_params, linear1 as linear1, sigmoid as sigmoid, mnist_loss as mnist_loss,
    BatchLoader as BatchLoader, calc_grad as calc_grad, batch_accuracy as batch_accuracy, batch_mean as batch_mean,
    mean_over as mean_over, predict_batches as predict_batches,
    validate_epoch as validate_epoch)
from .basic_optim import BasicOptim as BasicOptim, train_epoch as train_epoch, train_model as train_model
from .fastai_learner import (
    make_dls as make_dls, make_learner as make_learner, CheckLoss as CheckLoss, Stopwatch as Stopwatch, fit_learner as fit_learner)
from .neural_net import relu as relu, simple_net as simple_net, make_net as make_net, log_loss as log_loss, show_features as show_features
from .learner_from_scratch import (
    set_lr as set_lr, Learner as Learner, Recorder as Recorder, Metrics as Metrics, Progress as Progress, ToDevice as ToDevice,
    EarlyStop as EarlyStop, LRFinder as LRFinder)
from .all_digits import (
    load_all as load_all, mean_distances as mean_distances, log_sum_exp as log_sum_exp, log_softmax as log_softmax, softmax as softmax,
    cross_entropy as cross_entropy, digit_accuracy as digit_accuracy, digit_loaders as digit_loaders, scores as scores,
    Anneal as Anneal, confusion as confusion, plot_confusion as plot_confusion, make_conv as make_conv, save_model as save_model,
    load_model as load_model)
from .speed import mnist_grad as mnist_grad, fast_epoch as fast_epoch, fast_digits_epoch as fast_digits_epoch
from .many_workers import (
    launch as launch, Workers as Workers, Checkpoint as Checkpoint, step_bytes as step_bytes, step_seconds as step_seconds)
from .own_handwriting import (
    NearestMean as NearestMean, draw_strokes as draw_strokes, prepare as prepare, redraw as redraw, draw_page as draw_page, find_ink as find_ink,
    read_digit as read_digit, predict_image as predict_image)
from .run import climb as climb, climb_table as climb_table, climb_figure as climb_figure, trained_models as trained_models
from .misprints import MISPRINTS as MISPRINTS
from .practice import write_copies as write_copies, score as score
