"The comparison of saved outputs: it must see a changed number and not mind a duration."
from base64 import b64encode
from copy import deepcopy
from struct import pack

import pytest
from saved_outputs import differences, parts, same


def stream(text, name='stdout'): return {'output_type': 'stream', 'name': name, 'text': text}


def result(**data): return {'output_type': 'execute_result', 'data': {f"{k.replace('_', '/')}": v for k, v in data.items()}}


def png(width, height):
    return result(image_png=b64encode(b'\x89PNG\r\n\x1a\n' + bytes(8) + pack('>II', width, height)).decode(),
                  text_plain='<Figure size 800x320 with 1 Axes>')


def notebook(*outputs):
    cell = {'cell_type': 'code', 'source': '#| export\naccuracy(model)', 'outputs': list(outputs)}
    return {'cells': [{'cell_type': 'markdown', 'source': 'text'}, cell]}


def compare(before, after): return differences('nb.ipynb', notebook(before), notebook(after))


@pytest.mark.parametrize('before, after, first', [
    (stream('accuracy 0.9511'), stream('accuracy 0.9531'), 'saved 0.9511, now 0.9531'),
    (result(text_plain='tensor([-11.1002,   5.9263])'), result(text_plain='tensor([-11.1002,   5.9463])'),
     'saved 5.9263, now 5.9463'),
    (result(text_plain='(6131, 6265)'), result(text_plain='(6131, 6266)'), 'saved 6265, now 6266'),
    (result(text_plain='1.5e-05'), result(text_plain='1.5e+05'), 'saved 1.5e-05, now 1.5e+05'),
    (result(text_plain='0.25'), result(text_plain='nan'), 'saved 0.25, now nan'),
    (result(text_plain='True'), result(text_plain='False'), 'saved True, now False'),
    (result(text_html='<td>1.20</td>', text_plain='<Styler>'), result(text_html='<td>1.21</td>', text_plain='<Styler>'),
     'saved 1.20, now 1.21'),
    (png(700, 300), png(700, 310), 'saved a figure of 700 x 300 pixels, now a figure of 700 x 310 pixels'),
    (png(700, 300), stream(''), 'saved a figure of 700 x 300 pixels, now nothing more'),
    (stream(''), png(700, 300), 'saved nothing more, now a figure of 700 x 300 pixels'),
    (stream('3.5'), {'output_type': 'error', 'ename': 'NameError', 'evalue': "name 'x' is not defined"},
     "saved 3.5, now NameError: name 'x' is not defined")])
def test_a_changed_output_is_seen_and_its_cell_is_named(before, after, first):
    line, = compare(before, after)
    assert line == f'nb.ipynb, cell 1 (accuracy(model)): {first}'


@pytest.mark.parametrize('before, after', [
    (stream('loss 0.5006'), stream('loss 0.5010')),
    (stream('loss 1234.5'), stream('loss 1235.0')),
    (stream('2.68 s from files, 0.075 s at once'), stream('3.1 s from files, 0.1 s at once')),
    (stream('epoch 0 00:00'), stream('epoch 0 00:01')),
    (stream('data in /some/where/mnist_sgd/sample, 14434 files'), stream('data in ~/me/cache/sample, 14434 files')),
    (stream('step  epochs  seconds\nlinear  21  0.33\n\nepochs 20'), stream('step  epochs  seconds\nlinear  21  0.52\n\nepochs 20')),
    (stream('10%', 'stderr'), stream('a warning', 'stderr')),
    (result(text_html='<style>#T_1{}</style><td id="T_1">7</td>'), result(text_html='<style>#T_2{}</style><td id="T_2">7</td>')),
    (result(text_plain='tensor([ 1.00,  2.00])'), result(text_plain='tensor([1.00, 2.00])'))])
def test_what_may_differ_is_left_out(before, after): assert compare(before, after) == []


def test_only_the_seconds_of_a_table_are_left_out():
    table = 'step  epochs  accuracy  seconds\nlinear  21  0.9697  0.33\n\nthe notes: 0.9696'
    assert len(compare(stream(table), stream(table.replace('0.9697', '0.9597')))) == 1
    assert len(compare(stream(table), stream(table.replace('0.9696', '0.9596')))) == 1
    assert len(compare(stream(table), stream(table.replace('21', '22')))) == 1
    narrow = 'step accuracy seconds\nlinear 0.9697 0.33'
    assert len(compare(stream(narrow), stream(narrow.replace('0.9697', '0.9597')))) == 1


def test_parts_keep_signs_and_exponents_and_leave_names_whole():
    assert parts('x2 = -0.0008, 1e-3; mean3 -5 a/b') == ['x2', '=', '-0.0008', ',', '1e-3', ';', 'mean3', '-5', 'a/b']


def test_numbers_at_the_edge_of_the_tolerance():
    assert same('0.5000', '0.5004') and not same('0.5000', '0.5006')
    assert same('10.00', '10.009') and not same('10.00', '10.02')
    assert same('7', '7') and not same('7', '8') and not same('7', None)


def test_a_missing_output_is_seen():
    before = notebook(stream('one'), png(10, 10))
    after = deepcopy(before)
    after['cells'][1]['outputs'].pop()
    assert differences('nb', before, after) and differences('nb', after, before)
