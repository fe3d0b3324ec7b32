"""What a learner might answer in the practice copies, and copies that are filled in with it.

QUESTIONS: for each question a right and a wrong guess. BODIES: for each function to write a slip, as text to be replaced in
the body of the library's own, and words of the test that must catch it.
"""
import ast, json

import nbformat

from notebooks import is_slow
from mnist_sgd.misprints import MISPRINTS
from mnist_sgd.practice import practice_copy, tasks, walk

SOURCES = {name: json.loads(path.read_text(encoding='utf-8')) for name, path in walk().items()}
TASKS = {name: tasks(nb) for name, nb in SOURCES.items()}
COPIES = {name: practice_copy(nb, name) for name, nb in SOURCES.items()}

QUESTIONS = {
    '00_data': {
        'third_column': ([3, 6], [1, 2, 3]),
        'times_one_and_a_half': ('float32', 'int64'),
        'second_file': ('10000.png', '12.png'),
        'slice_shape': ((6, 18), (7, 19)),
        'stack_shape': ((6265, 28, 28), (28, 28, 6265)),
        'row_shape': ((6131, 28), (6131, 1, 28)),
        'minus': (246, -10),
        'mean_of_bytes': (RuntimeError, None),
        'ink_of_sevens': (.12, .15)},
    '01_pixel_similarity': {
        'plain_mean': (0, .16),
        'larger_distance': (False, True),
        'broadcast_shape': ((1010, 28, 28), (28, 28)),
        'bytes_distance': (.142*255, .1114*255),
        'distance_shape': ((1010,), (1010, 28, 28)),
        'share_of_sevens': (.01, .99),
        'squared': (.97, .94),
        'seen_one': (1, .95),
        'moved_sevens': (1, 15),
        'moved_threes': (.05, .9)},
    '02_manual_sgd': {
        'slope': (6, 9),
        'by_the_chain_rule': ([42, 14], [30, 10]),
        'grad_twice': (12, 6),
        'three_slopes': ([6, 8, 20], [9, 16, 100]),
        'loss_by_hand': (3, 9),
        'loss_of_wrong_shape': (9.3333, 0),
        'first_direction': (True, False),
        'plain_step': (RuntimeError, None),
        'four_times': (True, False),
        'many_steps': (970, 500)},
    '03_linear_model': {
        'rows_shape': ((12396, 784), (12396, 28, 28)),
        'item_shape': ((784,), (1, 784)),
        'predictions_shape': ((12396, 1), (12396, 784)),
        'nudged_middle': (0, 6701),
        'loss_of_three': (.433, .5),
        'mixed_batches': (1, 49),
        'grad_shape': ((784, 1), (1,)),
        'second_call': (-.0015, -.0008),
        'corner_weight': (True, False)},
    '04_basic_optim': {
        'weight_shape': ((1, 784), (784, 1)),
        'two_lists': ([2, 0], [2, 2]),
        'called_threes': (1, .5),
        'old_optimiser': (True, False),
        'three_optimisers': (True, False),
        'better_start': (True, False),
        'twice_the_rate': (1, 5),
        'shuffled_one_epoch': (.97, .49)},
    '05_fastai_learner': {
        'valid_batches': (8, 2038),
        'after_ten_epochs': (.967, .98),
        'same_weights': (True, False),
        'same_accuracies': (False, True),
        'times_called': (57, 49),
        'one_bad_pixel': (0, 784),
        'fit_twice': (True, False),
        'which_mistakes': (60, 33)},
    '06_neural_net': {
        'line_accuracy': (.667, .98),
        'two_bends': (2, 10),
        'hidden_values': ([1, 0, 0, 0], [1, -1, 0, 0]),
        'by_hand_accuracy': (1, .5),
        'hidden_shape': ((256, 30), (30, 256)),
        'how_many_parameters': (23581, 814),
        'dead_unit': (0, 1),
        'better_than_linear': (False, True),
        'size_of_sums': (9.3, 86),
        'parameter_tensors': (6, 3),
        'merged_parameters': (785, 23581),
        'worth_of_bend': (False, True),
        'which_model': ('with ReLU', 'line')},
    '07_learner_from_scratch': {
        'times_called': (147, 171),
        'mean_over_images': (.3, .4),
        'rows_when_stopped': (2, 3),
        'f1_of_batches': (.5, .97),
        'rows_that_differ': (0, 10),
        'best_epoch': (3, 60),
        'finder_with_one_epoch': (49, 57),
        'mistakes_as_suggested': (25, 17)},
    '08_all_digits': {
        'megabytes': (188, 47),
        'always_one': (.1, .5),
        'accuracy_of_means': (.7, .95),
        'linear_parameters': (7850, 785),
        'naive_overflow': ('nan', 'numbers'),
        'shifted': (True, False),
        'loss_without_a_clue': (2.3, .1),
        'sum_of_gradient': (0, 1),
        'sum_of_row': (892, 10000),
        'read_as_nine': (4, 8),
        'line_moved': (.68, .9),
        'kernel_parameters': (416, 25),
        'last_layer': (10250, 640),
        'field_of_second': (9, 8),
        'conv_moved': (.96, .7),
        'worth_most': ('kernels', 'momentum')},
    '09_speed': {
        'fetch_or_compute': ('fetch', 'compute'),
        'items_fetched': (12396, 49),
        'same_accuracies': (True, False),
        'slope_at_zero': (.25, 1),
        'bias_of_threes': ('negative', 'positive'),
        'last_batch': (108, 256),
        'reads_per_pixel': (2, 1),
        'nan_weights': (0, 784)},
    '10_many_workers': {
        'mean_of_halves': (True, False),
        'sum_of_ranks': (6, 4),
        'same_bits': (False, True),
        'three_shares': ((86, 85, 85), (85, 85, 85)),
        'three_and_one': (3, 4),
        'same_after_death': (True, False),
        'ring_sends': (1200, 2400),
        'thousand_machines': (2, 500),
        'best_of_many': (1, 64),
        'step_of_two': (104, 10)},
    '11_own_handwriting': {
        'forty_shrunk': (21, 38),
        'longer_side': (20, 28),
        'middle_row': (14, 10),
        'changed_by_prepare': (0, 9000),
        'moved_by_four': (.2, .8),
        'turned_and_prepared': (False, True),
        'thick_pen': (12, 19),
        'other_twenty': (8, 20)}}

BODIES = {
    '00_data': {},
    '01_pixel_similarity': {
        'mnist_distance': ("mean((-1, -2))", "mean()", 'one distance for each image'),
        'is_3': ("< mnist_distance(x, mean7)", "> mnist_distance(x, mean7)", 'nearer to the mean 3'),
        'pixel_accuracy': ("on_7 = 1 - is_3", "on_7 = is_3", 'the three numbers above')},
    '02_manual_sgd': {
        'finite_difference': ("/(2*eps)", "/eps", 'twice each input'),
        'rolling_speed': ("(time - n/2)", "(time - 10)", 'slowest half way'),
        'f': ("return a*t**2 + b*t", "return a*t**2 + b*6", 'b is multiplied by t'),
        'mse': ("**2).mean()", "**2).sum()", "the same as PyTorch's own"),
        'apply_step': ("params.grad = None # an earlier backward may have left one", "", 'was there before')},
    '03_linear_model': {
        'label_pair': (".unsqueeze(1)", ".unsqueeze(1).float()", 'whole numbers'),
        'init_params': (".to(device).requires_grad_()", ".requires_grad_()*1", 'comes last'),
        'linear1': (" + bias\n", "\n", "PyTorch's own"),
        'sigmoid': ("torch.exp(-F.softplus(-x))", "1/(1 + torch.exp(-x))", 'also far out'),
        'mnist_loss': ("predictions = predictions.sigmoid()", "pass", 'the sigmoid comes first'),
        'BatchLoader': ("self.x[which], self.y[which]", "self.x[which], self.y[:len(which)]", 'keeps its target'),
        'calc_grad': ("loss.detach()", "loss", 'detach()'),
        'train_epoch': ("p.grad.zero_()", "pass", 'a step after each batch'),
        'batch_accuracy': ("> 0.5", ">= 0.5", '0 is not above 0'),
        'batch_mean': (", metric)", ", metric)*2", 'each batch counts once'),
        'validate_epoch': (", 4)", ", 3)", 'rounded to four digits')},
    '04_basic_optim': {
        'BasicOptim': ("p.data -= p.grad*self.lr", "p.data += p.grad*self.lr", 'against its gradient'),
        'train_epoch': ("if len(losses) == 1: after_first_batch(model, opt)", "", 'the optimiser of another model'),
        'train_model': ("zip(history.values(), numbers)", "zip(history.values(), numbers[::-1])", 'the accuracy after each epoch')},
    '05_fastai_learner': {
        'make_dls': ("((x, y), (valid_x, valid_y))", "((x, y), (x, y))", 'the second loader'),
        'make_learner': ("opt_func=SGD, ", "", 'plain SGD'),
        'CheckLoss': ("self.iter + 1", "self.iter", 'counts from 1'),
        'Stopwatch': ("self.seconds = []", "self.seconds = getattr(self, 'seconds', [])", 'an empty list'),
        'fit_learner': ("train_loss, valid_loss, accuracy = map", "valid_loss, train_loss, accuracy = map", 'under its name')},
    '06_neural_net': {
        'relu': ("torch.where(x <= 0, 0, x)", "x.clamp_min(0)", 'the gradient is 1'),
        'simple_net': ("relu(linear1(xb, w1, b1))", "linear1(xb, w1, b1)", "PyTorch's linear layers"),
        'make_net': ("layers[:-1]", "layers", 'none at the end'),
        'show_features': ("weights.abs().max()", "weights.max()", 'one scale')},
    '07_learner_from_scratch': {
        'Learner': ("self.model.train(self.training)", "self.model.train()", 'batches to train on'),
        'Recorder': ("self.total += loss*len(learn.xb)", "self.total += loss*100", 'larger batches count for more'),
        'Metrics': ("if not learn.training: self.batches", "if learn.training: self.batches", 'of all validation images'),
        'Progress': ("self.bar.update()", "self.bar.update(2)", 'by one with every batch'),
        'EarlyStop': ("self.best, self.waited = value, 0", "self.best = value", 'start waiting anew'),
        'set_lr': ("for group in opt.param_groups: group['lr'] = lr", "opt.lr = lr", "torch's"),
        'LRFinder': ("3*abs(", "30*abs(", 'four times the lowest')},
    '08_all_digits': {
        'mean_distances': ("/x.shape[1]", "", 'mean absolute difference'),
        'log_sum_exp': ("(x - largest).exp().sum(-1).log() + largest.squeeze(-1)", "x.exp().sum(-1).log()", 'do not overflow'),
        'log_softmax': ("x - log_sum_exp(x)[..., None]", "(x.exp()/x.exp().sum(-1, keepdim=True)).log()", 'for large numbers as well'),
        'softmax': ("log_softmax(x).exp()", "x.exp()/x.exp().sum()", 'add up to 1'),
        'cross_entropy': ("[rows, targets].mean()", "[rows, targets].sum()", 'the mean of both'),
        'digit_accuracy': ("preds.argmax(1) == targets", "(preds[:, 1] > preds[:, 0]).long() == targets", 'more than two classes'),
        'digit_loaders': ("shuffle=True", "shuffle=False", 'are shuffled'),
        'scores': ("x.float()/(1 if x.dtype == torch.bool else 255)", "x.float()", 'of bytes or of floats'),
        'Anneal': ("self.done += 1", "self.done += 2", 'three quarters'),
        'confusion': ("targets*classes + preds.argmax(1)", "preds.argmax(1)*classes + targets", 'row the right digit'),
        'make_conv': ("stride=2, ", "", 'by two pixels')},
    '09_speed': {
        'take_turns': ("min(best[name], perf_counter() - start)", "perf_counter() - start", 'the best of all runs counts'),
        'mnist_grad': ("*p*(1 - p)/len(xb)", "*p*(1 - p)", 'the gradient of the weights is the one of autograd'),
        'fast_epoch': ("weights[:, 0], bias,", "weights[:, 0], bias.clone(),", 'the bias takes a step in every batch'),
        'fast_digits_epoch': ("weights, bias,", "weights, bias.clone(),", "the weights and biases that PyTorch's own loop gets")},
    '10_many_workers': {
        'Workers': ("learn.yb[self.rank::self.world]", "learn.yb[:self.world]", 'every third image'),
        'step_bytes': ("*parameters*4", "*parameters", 'two machines send each number once'),
        'step_seconds': ("2*(workers - 1)*latency", "(workers - 1)*latency", 'two rounds')},
    '11_own_handwriting': {
        'NearestMean': ("-mean_distances", "mean_distances", 'equals a mean is nearest'),
        'prepare': ("14.5 - middle - 1e-5", "14 - len(mass)/2", 'as it went in'),
        'redraw': ("*scale + 52", " + 52", 'half as large'),
        'find_ink': ("ink = ink*(ink**3).sum().sign()", "pass", 'dark on bright')}}


def text(cell): return ''.join(cell['source'])


def code_of(cell): return '\n'.join(line for line in text(cell).splitlines() if not line.startswith('#|')).strip()


def misprint(line):
    number, _, which = line.partition('.')
    return [m for m in MISPRINTS if m.line == int(number)][int(which or 1) - 1]


def repair(line): return misprint(line).right


def settings(cell): return cell['metadata'].get('mnist_sgd', {})


def to_write(name):
    "{cell id: the function or class that is to be written there}."
    functions = [task.name for task in TASKS[name] if task.kind == 'write']
    exports = [cell for cell in SOURCES[name]['cells'] if text(cell).startswith('#| export')]
    defined = {cell['id']: getattr(ast.parse(code_of(cell)).body[-1], 'name', None) for cell in exports}
    return {id: function for id, function in defined.items() if function in functions}


def own_bodies(name):
    "{cell id: the library's own body of the function or class that is to be written there}."
    functions = to_write(name)
    return {cell['id']: code_of(cell) + '\n' for cell in SOURCES[name]['cells'] if cell['id'] in functions}


def slow_cells(name, slow_too=False):
    """The slow cells that are left out of a copy, and the questions in them, as the copy names them.

    If slow cells are wanted, those below the last task are left out all the same: no answer depends on them.
    """
    cells = SOURCES[name]['cells']
    first = 1 + max(i for i, cell in enumerate(cells) if settings(cell)) if slow_too else 0
    slow = [cell for cell in cells[first:] if is_slow(cell)]
    return {cell['id'] for cell in slow} | {settings(cell)['question'] for cell in slow if 'question' in settings(cell)}


def fill(name, learner, slow_too=False):
    """A practice copy as `learner` fills it in: 'right', 'wrong' or 'right after blank'.

    The last one runs each question and each function left blank first, as learners do, in cells of their own.
    """
    nb = nbformat.from_dict(COPIES[name])
    left_out = slow_cells(name, slow_too)
    nb.cells = [cell for cell in nb.cells if cell.id not in left_out]
    bodies = own_bodies(name)
    untouched = {cell.id: nbformat.from_dict(cell | {'id': f'{cell.id}-blank'}) for cell in nb.cells}
    cells, nb.cells = nb.cells, []
    for cell in cells:
        blank = []
        if cell.id in QUESTIONS[name]:
            guess = QUESTIONS[name][cell.id][learner == 'wrong']
            guess = guess.__name__ if isinstance(guess, type) else repr(guess)
            cell.source = cell.source.replace('guess = ...', f'guess = {guess}', 1)
            blank = [untouched[cell.id]]
        elif cell.id in bodies:
            function = to_write(name)[cell.id]
            cell.source = bodies[cell.id]
            if learner == 'wrong':
                right_words, wrong_words, _ = BODIES[name][function]
                assert right_words in cell.source
                cell.source = cell.source.replace(right_words, wrong_words)
            blank = [untouched[cell.id], untouched[f'tests-{function}']]
        elif cell.source.startswith('%%mend '):
            blank = [untouched[cell.id]]
            first = cell.source.splitlines()[0]
            cell.source = f'{first}\n' + ('"no repair"' if learner == 'wrong' else repair(first.split()[1]))
        nb.cells += [*(blank if learner == 'right after blank' else []), cell]
    return nb
