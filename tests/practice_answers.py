"""What a learner might answer in the practice copies.

QUESTIONS: for each question a right and a wrong guess. BODIES: for each function to write a slip, as text to be replaced in
the body of the library's own, and words of the test that must catch it.
"""
import torch

QUESTIONS = {
    '00_data': {
        'second_file': ('10000.png', '12.png'),
        'slice_shape': ((6, 6), (7, 7)),
        'corner': (0, 255),
        'stack_shape': ((6265, 28, 28), (28, 28, 6265)),
        'cat_shape': ((175420, 28), (6265, 28, 28)),
        'row_shape': ((6131, 28), (6131, 1, 28)),
        'wrapped': (246, -10),
        'mean_of_bytes': (RuntimeError, None),
        'divided': (torch.float32, torch.uint8)},
    '01_pixel_similarity': {
        'mean_shape': ((28, 28), (6131, 28, 28)),
        'plain_mean': (0, .16),
        'larger_distance': ('sqr', 'abs'),
        'broadcast_shape': ((1010, 28, 28), (28, 28)),
        'distance_shape': ((1010,), (1010, 28, 28)),
        'stack_of_all': ('RuntimeError', None),
        'bytes_distance': (36, .1114),
        'share_of_sevens': (.01, .99),
        'moved_sevens': (1, 15),
        'moved_threes': (.05, .9),
        'hundred_images': (.95, .8)},
    '02_manual_sgd': {
        'slope': (6, 9),
        'grad_twice': (12, 6),
        'three_results': (RuntimeError, None),
        'three_slopes': ([6, 8, 20], [9, 16, 100]),
        'loss_by_hand': (3, 9),
        'loss_of_wrong_shape': (1.3333, 0),
        'first_direction': ('down', 'up'),
        'plain_step': (RuntimeError, None),
        'four_times': ('larger', 'smaller'),
        'many_steps': (970, 7)},
    '03_linear_model': {
        'rows_shape': ((12396, 784), (12396, 28, 28)),
        'item_shape': ((784,), (1, 784)),
        'predictions_shape': ((12396, 1), (12396, 784)),
        'crossed_shape': ((12396, 12396), (12396, 1)),
        'nudged_middle': (True, False),
        'loss_of_three': (.433, .5),
        'far_gradient': ('nan', 'zero'),
        'last_batch': (108, 256),
        'grad_shape': ((784, 1), (1,)),
        'added_gradient': (-.0015, -.0008),
        'corner_weight': (True, False)},
    '04_basic_optim': {
        'weight_shape': ((1, 784), (784, 1)),
        'used_up': ([2, 0], [2, 2]),
        'called_threes': (1, .5),
        'old_optimiser': (True, False),
        'loss_at_rest': ('valid_loss', 'train_loss'),
        'better_start': ('small', 'large'),
        'twice_the_rate': (1, 5),
        'three_optimisers': (True, False),
        'shuffled': (.97, .49)},
    '05_fastai_learner': {
        'valid_batches': (8, 2038),
        'same_weights': (True, False),
        'same_accuracies': (False, True),
        'times_called': (57, 49),
        'fit_twice': (True, False),
        'one_bad_pixel': (ValueError, None),
        'raw_output': (False, True),
        'which_mistakes': (60, 33),
        'best_of_three': ('BasicOptim', 'by hand')}}

BODIES = {
    '00_data': {
        'show_image': ("ax.set_title(title, loc='center')", "pass", 'the title stands above'),
        'show_images': ("show_image(im, ax, text, **kwargs)", "show_image(im, ax, **kwargs)", 'its own title'),
        'load_digit': ("_load([digit], split,", "_load([digit], 'train',", 'those of the validation set'),
        'load_pair': ("[first, second]", "[second, first]", 'first the images of the first digit'),
        'write_file': ("if partial.exists(): partial.unlink()", "pass", 'no half a file'),
        'sample_files': ("digit in (3, 7)", "digit in (7, 3)", 'a key for each folder')},
    '01_pixel_similarity': {
        'mnist_distance': ("mean((-1, -2))", "mean()", 'one distance for each image'),
        'is_3': ("< mnist_distance(x, mean7)", "> mnist_distance(x, mean7)", 'nearer to the mean 3'),
        'pixel_accuracy': ("on_7 = 1 - is_3", "on_7 = is_3", '3s, 7s, mean')},
    '02_manual_sgd': {
        'finite_difference': ("/(2*eps)", "/eps", 'twice each input'),
        'rolling_speed': ("(time - n/2)", "(time - 10)", 'slowest half way'),
        'f': ("b*t", "b*6", 'b is multiplied by t'),
        'mse': ("check_same_shape(preds, targets)", "pass", 'shapes that differ'),
        'apply_step': ("params.grad = None # an earlier backward may have left one", "", 'was there before')},
    '03_linear_model': {
        'label_pair': (".long()", "", 'whole numbers'),
        'init_params': (".to(device).requires_grad_()", ".requires_grad_()*1", 'comes last'),
        'skip_draws': ("n -= kept + 4", "n -= kept", 'nine draws are passed over'),
        'linear1': (" + bias\n", "\n", "PyTorch's own"),
        'sigmoid': ("torch.exp(-F.softplus(-x))", "1/(1 + torch.exp(-x))", 'also far out'),
        'mnist_loss': ("predictions = predictions.sigmoid()", "pass", 'sigmoid first'),
        'BatchLoader': ("x, y = x[order], y[order.to(y.device)]", "x = x[order]", 'keeps its target'),
        'calc_grad': ("loss.detach()", "loss", 'detach()'),
        'train_epoch': ("p.grad.zero_()", "pass", 'a step after each batch'),
        'batch_accuracy': ("> 0.5", "> 0.6", 'two are right'),
        'batch_mean': (".mean().item()", ".mean()", 'a float'),
        'validate_epoch': (", 4)", ", 3)", 'rounded to four digits')},
    '04_basic_optim': {
        'BasicOptim': ("p.data -= p.grad*self.lr", "p.data += p.grad*self.lr", 'against its gradient'),
        'optim_params': ("for group in opt.param_groups for p", "for group in opt.param_groups[:1] for p", 'param_groups'),
        'train_epoch': ("check_gradients(params)", "pass", 'the optimiser of another model'),
        'train_model': ("if is_module: model.eval()", "", 'model.eval()')},
    '05_fastai_learner': {
        'make_dls': ("DataLoaders(dl, valid_dl,", "DataLoaders(dl, dl,", 'the second loader'),
        'make_learner': ("opt_func=SGD, ", "", 'plain SGD'),
        'CheckLoss': ("self.iter + 1", "self.iter", 'counts from 1'),
        'Stopwatch': ("self.seconds = []", "self.seconds = getattr(self, 'seconds', [])", 'an empty list'),
        'fit_learner': ("train_loss, valid_loss, accuracy = map", "valid_loss, train_loss, accuracy = map", 'under its name'),
        'plot_climb': (", label=name)", ")", 'with its name')}}
